"""What a recipe refuses before anything is built."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from launcher.training.recipe.recipe import Recipe
from strategies import ConfigError


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": lambda: nn.Linear(2, 2),
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        "train": range(10),
        "global_batch": 4,
        "micro_batch": 2,
        "epochs": 1,
    }
    return Recipe(**(values | changes))


def test_fp16_cannot_be_exact() -> None:
    fp16 = SimpleNamespace(needs_loss_scaling=True)
    run: Any = SimpleNamespace(exact=True, precision=fp16)
    with pytest.raises(ConfigError, match="--exact cannot be done in fp16"):
        recipe().blueprint(run, "ddp")


def test_an_accelerator_that_the_strategy_would_not_use() -> None:
    run: Any = SimpleNamespace()
    with pytest.raises(ConfigError, match="strategy=ddp would not use it"):
        recipe(accelerator=object()).blueprint(run, "ddp")


@pytest.mark.parametrize("name", ["model", "optimizer"])
def test_several_models_belong_into_a_loop_of_ones_own(name: str) -> None:
    for several in ({"a": 1, "b": 2}, [1, 2]):
        with pytest.raises(ConfigError, match=rf"of 2, .* launcher\.Resumable\({name}=\.\.\.\)"):
            recipe(**{name: several})


def test_what_becomes_of_frozen_parameters() -> None:
    with pytest.raises(ConfigError, match='frozen=\'link\' must be "copy" or "name"'):
        recipe(frozen="link")
    with pytest.raises(ConfigError, match=r'Pass weights=, or leave frozen="name" out'):
        recipe(frozen="name")
    assert recipe(frozen="name", weights="base.safetensors").frozen == "name"
