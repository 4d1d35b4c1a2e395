"""What a run folder says at the end, as numbers that can be compared."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

COMPARED = ("epoch", "samples", "lr", "loss", "val/loss")
"""What a record of metrics.jsonl says of its step, whenever and wherever that was done."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run folder."""

    path: Path

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return the whole lines of a JSONL file."""
        file = self.path / name
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of one kind."""
        return [event for event in self.records("events.jsonl") if event["event"] == kind]

    def saved_step(self) -> int:
        """Return the newest step that the run says it has saved; 0 where it has none."""
        return max((event["step"] for event in self.events("saved")), default=0)

    def weights(self) -> dict[str, NDArray[np.generic]]:
        """Return the exported model."""
        return load_file(self.path / "export" / "model.safetensors")

    def evaluated(self) -> list[int]:
        """Return the steps of the evaluations, in the order of their records."""
        return [r["step"] for r in self.records("metrics.jsonl") if "val/loss" in r]


def differences(run: Seen, other: Seen) -> tuple[float, list[str]]:
    """Compare two runs that have ended.

    Returns:
        The largest difference of any number, and a sentence about each thing that is not the same.
    """
    mine, theirs = run.weights(), other.weights()
    if mine.keys() != theirs.keys():
        return float("inf"), ["the exported model has other tensors"]
    found = [float(np.abs(mine[k] - theirs[k]).max()) for k in mine]
    wrong = []
    records, others = run.records("metrics.jsonl"), other.records("metrics.jsonl")
    steps, should = [r["step"] for r in records], [r["step"] for r in others]
    if steps != should:
        wrong.append(f"metrics.jsonl has the steps {steps}, not {should}")
    if run.evaluated() != other.evaluated():
        wrong.append(f"evaluations at the steps {run.evaluated()}, not {other.evaluated()}")
    by_step = {record["step"]: record for record in others}
    for record in records:
        there = by_step.get(record["step"], {})
        if {k for k in COMPARED if k in record} != {k for k in COMPARED if k in there}:
            wrong.append(f"the record of step {record['step']} has other parts")
        found += [abs(record[k] - there[k]) for k in COMPARED if k in record and k in there]
    for kind, exact, number in (
        ("best", "step", "value"),
        ("end", "step", "step"),
        ("test", "weights", "test/loss"),
    ):
        mine_at, there_at = _last(run, kind), _last(other, kind)
        if mine_at is None or there_at is None or mine_at[exact] != there_at[exact]:
            wrong.append(f'the last event "{kind}" is {mine_at}, not {there_at}')
        else:
            found.append(abs(mine_at[number] - there_at[number]))
    return max(found), wrong


def _last(run: Seen, kind: str) -> dict[str, Any] | None:
    events = run.events(kind)
    return events[-1] if events else None
