"""What an Accelerator that would do something else is told, without starting ranks."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from strategies import Blueprint, ConfigError, Ranks
from strategies.parallel.native.accelerate import (
    Accelerate,
    refuse_other_sums,
    refuse_unlike,
    refuse_unsuited,
)
from strategies.precision import precision_for

RANKS = Ranks(rank=1, world_size=2, device=torch.device("cpu"), host_group=cast(Any, None))
SUITED: dict[str, Any] = {
    "num_processes": 2,
    "process_index": 1,
    "device": torch.device("cpu"),
    "mixed_precision": "no",
    "gradient_accumulation_steps": 1,
    "distributed_type": "MULTI_CPU",
}


@pytest.mark.parametrize(
    ("changes", "environ", "precision", "words"),
    [
        ({"num_processes": 1, "process_index": 0}, {}, "fp32", "is process 0 of 1.*rank is 1 of 2"),
        ({"process_index": 0}, {}, "fp32", "process 0 of 2"),
        ({"device": torch.device("meta")}, {}, "fp32", "computes on meta.*cpu=True"),
        ({"mixed_precision": "bf16"}, {}, "fp32", 'mixed_precision="bf16".*--precision fp32'),
        ({}, {}, "bf16", 'with mixed_precision="bf16"'),
        ({"gradient_accumulation_steps": 4}, {}, "fp32", "gradient_accumulation_steps=4"),
        ({}, {"ACCELERATE_USE_FSDP": "true"}, "fp32", "asked for FSDP and became MULTI_CPU on 2"),
        ({}, {"ACCELERATE_USE_DEEPSPEED": "TRUE"}, "fp32", "DeepSpeed.*--strategy zero1"),
    ],
)
def test_an_accelerator_that_does_not_suit(
    changes: dict[str, Any], environ: dict[str, str], precision: str, words: str
) -> None:
    accelerator = SimpleNamespace(**(SUITED | changes))
    policy = precision_for(precision, "cuda")
    with pytest.raises(ConfigError, match=words):
        refuse_unsuited(accelerator, RANKS, policy, environ=environ)


def test_fp16_is_refused_because_its_scale_would_not_be_saved() -> None:
    accelerator = SimpleNamespace(**(SUITED | {"mixed_precision": "fp16"}))
    with pytest.raises(ConfigError, match="cannot honour --precision fp16"):
        refuse_unsuited(accelerator, RANKS, precision_for("fp16", "cuda"), environ={})


def test_one_that_suits_is_taken() -> None:
    environ = {"ACCELERATE_USE_FSDP": "false"}
    refuse_unsuited(SimpleNamespace(**SUITED), RANKS, precision_for("fp32", "cpu"), environ=environ)


def test_a_model_whose_gradients_nobody_sums() -> None:
    with pytest.raises(ConfigError, match=r"on 2 ranks .*MULTI_CPU.* built a Linear"):
        refuse_unlike(nn.Linear(2, 2), SimpleNamespace(**SUITED), RANKS)


@pytest.mark.parametrize("hook", [None, "no"])
def test_exact_sums_take_the_place_of_plain_ones(hook: str | None) -> None:
    refuse_other_sums(SimpleNamespace(ddp_handler=hook and SimpleNamespace(comm_hook=hook)))


def test_exact_sums_do_not_take_the_place_of_what_was_asked_for() -> None:
    handler = SimpleNamespace(comm_hook=SimpleNamespace(value="bf16"))
    with pytest.raises(ConfigError, match="--exact sums gradients itself"):
        refuse_other_sums(SimpleNamespace(ddp_handler=handler))


def test_none_at_all() -> None:
    blueprint = Blueprint(
        model=lambda: nn.Linear(2, 2),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        precision=precision_for("fp32", "cpu"),
        max_grad_norm=None,
        seed=1,
        ranks=RANKS,
    )
    with pytest.raises(ConfigError, match="needs an Accelerator"):
        Accelerate(blueprint)
