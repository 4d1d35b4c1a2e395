"""The count of waits sees what would wait on a GPU, and nothing else.

What is counted must stand in one of our packages: a line of a test is nobody's.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "workers"))
waits: Any = importlib.import_module("waits")

T = torch.arange(4.0)
MASK = T > 1


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "place", lambda: "here")


@pytest.mark.parametrize(
    "wait",
    [
        lambda: T[0].item(),
        lambda: float(T[0]),
        lambda: int(T[0]),
        lambda: bool(T[0]),
        lambda: 1 if T[0] else 0,
        lambda: T.tolist(),
        lambda: T.cpu(),
        lambda: T.numpy(),
        lambda: T.to("cpu"),
        lambda: T.to(device="cpu"),
        lambda: T[MASK],
        lambda: T[MASK, None],
        lambda: MASK.nonzero(),
        lambda: torch.where(MASK),
        lambda: T.masked_select(MASK),
        lambda: torch.unique(T),
        lambda: torch.equal(T, T),
        lambda: torch.isfinite(T).all().item(),
        lambda: torch.tensor(3.0, device="cpu"),
        lambda: torch.as_tensor([1], device="cpu"),
        lambda: f"{T[0]:.3f}",
    ],
)
def test_a_wait_is_counted(wait: Callable[[], Any]) -> None:
    with waits.Waits() as counted:
        wait()
    assert counted.found["here"] >= 1


@pytest.mark.parametrize(
    "fine",
    [
        lambda: T + 1,
        lambda: T[torch.tensor([0, 2])],
        lambda: torch.where(MASK, T, 0.0),
        lambda: T.masked_fill(MASK, 0.0),
        lambda: T.to(torch.float64),
        lambda: T.to(T.device, torch.float64),
        lambda: T.to("cpu", non_blocking=True),
        lambda: torch._foreach_norm([T]),
        lambda: T.new_full((), 3.0),
        lambda: torch.zeros(3, device="cpu"),
        lambda: torch.tensor(3.0),
    ],
)
def test_what_waits_for_nothing_is_not(fine: Callable[[], Any]) -> None:
    with waits.Waits() as counted:
        fine()
    assert not counted.found
