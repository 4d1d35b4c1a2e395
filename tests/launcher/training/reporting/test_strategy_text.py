"""The start table tells where exact sums would cost nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.distributed import ProcessGroup

from launcher.training.reporting.run_log import strategy_text
from strategies import Ranks

FREE = " (with --exact at this speed: the same bits on any number of ranks)"


def start(**changes: Any) -> Any:
    given: dict[str, Any] = {
        "memory": object(),
        "world_size": 2,
        "device": "cpu",
        "exact": False,
    } | changes
    ranks = Ranks(
        rank=0,
        world_size=given["world_size"],
        device=torch.device(given["device"]),
        host_group=cast(ProcessGroup, None),
        memory=given["memory"],
    )
    precision = SimpleNamespace(name=given.get("precision", "fp32"))
    return SimpleNamespace(ranks=ranks, precision=precision, exact=given["exact"])


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("ddp", {}, f"ddp, fp32{FREE}"),
        ("fsdp", {"world_size": 4}, f"fsdp, fp32{FREE}"),
        ("zero2", {}, "zero2, fp32"),
        ("ddp", {"memory": None}, "ddp, fp32"),
        ("ddp", {"world_size": 1}, "ddp, fp32"),
        ("ddp", {"device": "cuda"}, "ddp, fp32"),
        ("ddp", {"precision": "bf16"}, "ddp, bf16"),
        ("ddp", {"exact": True}, "ddp, fp32, the same bits on any number of ranks"),
    ],
)
def test_exact_is_offered_where_it_is_free(name: str, changes: dict[str, Any], text: str) -> None:
    assert strategy_text(name, start(**changes)) == text
