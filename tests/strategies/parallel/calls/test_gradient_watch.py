"""A script that changes gradients by itself is told, before another number of ranks shows it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from strategies import ConfigError
from strategies.parallel.calls.gradient_watch import WATCHED, GradientWatch


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(3, 2)


@pytest.fixture
def watch(model: nn.Module) -> GradientWatch:
    return GradientWatch(list(model.named_parameters()))


def loss_of(model: nn.Module) -> torch.Tensor:
    total: torch.Tensor = model(torch.ones(4, 3)).sum()
    return total


def own_backward(model: nn.Module) -> None:
    loss_of(model).backward()  # type: ignore[no-untyped-call]


def write(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = 2 * torch.ones_like(parameter)


AFTER: list[Callable[[nn.Module], Any]] = [
    own_backward,
    write,
    lambda model: model.zero_grad(),
    lambda model: torch.optim.SGD(model.parameters(), lr=0.1).zero_grad(set_to_none=False),
    lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.1),
    lambda model: nn.utils.clip_grad_value_(model.parameters(), 0.1),
]


@pytest.mark.parametrize("change", AFTER)
def test_what_is_done_after_the_backward(
    change: Callable[[nn.Module], Any], model: nn.Module, watch: GradientWatch
) -> None:
    watch.begin()
    watch.require_as_left("step 0, micro-batch 3")
    own_backward(model)  # stands for the engine's
    watch.leave()
    watch.require_as_left("step 0, micro-batch 3")
    change(model)
    with pytest.raises(ConfigError, match=r"^step 0, micro-batch 3: .* gradient of weight .*max_g"):
        watch.require_as_left("step 0, micro-batch 3")


@pytest.mark.parametrize("change", [own_backward, write, lambda model: model.zero_grad()])
def test_what_is_done_before_it(
    change: Callable[[nn.Module], Any], model: nn.Module, watch: GradientWatch
) -> None:
    own_backward(model)  # of the micro-batch before
    watch.begin()
    change(model)
    with pytest.raises(ConfigError, match="gradient of weight"):
        watch.require_as_left("step 0, micro-batch 0")


def test_looking_and_gradients_of_other_things_are_left_alone(
    model: nn.Module, watch: GradientWatch
) -> None:
    x = torch.ones(4, 3, requires_grad=True)
    watch.begin()
    torch.autograd.grad(model(x).sum(), x, create_graph=True)
    watch.require_as_left("")
    own_backward(model)
    watch.leave()
    assert sum(float(p.grad.norm()) for p in model.parameters() if p.grad is not None) > 0
    nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    watch.require_as_left("")


def test_only_the_first_micro_batches_are_looked_at(model: nn.Module, watch: GradientWatch) -> None:
    for _ in range(WATCHED):
        watch.begin()
    model.zero_grad()
    own_backward(model)
    with pytest.raises(ConfigError):
        watch.require_as_left("")
    watch.begin()
    own_backward(model)
    watch.leave()
    model.zero_grad()
    watch.require_as_left("")
