"""Metrics that a GPU still computes are written without a wait for it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from launcher.bridges import records as records_module
from launcher.bridges.rank_notices import RankNotices
from launcher.bridges.records import BridgeRecords


class Lines:
    """Takes the lines of a run folder."""

    def __init__(self) -> None:
        self.metrics_of: list[dict[str, Any]] = []
        self.events: list[str] = []

    def metrics(self, record: dict[str, Any]) -> None:
        self.metrics_of.append({k: v for k, v in record.items() if k not in ("attempt", "time")})

    def event(self, kind: str, **details: Any) -> None:
        self.events.append(f"{kind} after {len(self.metrics_of)}")


def records_into(lines: Lines) -> BridgeRecords:
    rank = SimpleNamespace(environment=SimpleNamespace(attempt=1), is_coordinator=True)
    found = BridgeRecords(cast(RankNotices, rank), Path("unused"))
    found._folder = cast(Any, lines)
    return found


def test_numbers_of_a_device_come_with_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "_is_on_device", torch.is_tensor)
    lines = Lines()
    records = records_into(lines)
    records.metrics(1, {"loss": torch.tensor([0.5]), "learning_rate": 0.1})
    assert lines.metrics_of == []
    records.metrics(2, {"loss": torch.tensor(0.25), "seen": torch.tensor(7)})
    assert lines.metrics_of == [{"step": 1, "loss": 0.5, "lr": 0.1}]
    records.ended(2, "completed", "2 steps", None)
    assert lines.metrics_of[1:] == [{"step": 2, "loss": 0.25, "seen": 7}]
    assert lines.events == ["end after 2"]


def test_numbers_of_the_host_come_at_once() -> None:
    lines = Lines()
    records = records_into(lines)
    records.metrics(1, {"loss": torch.tensor(0.5), "f1": np.float32(0.75), "w": torch.ones(2)})
    assert lines.metrics_of == [{"step": 1, "loss": 0.5, "f1": 0.75}]
    records.metrics(2, {"eval_loss": float("nan"), "train_runtime": 3.0})
    assert len(lines.metrics_of) == 1
