"""What an interruption costs: work that was done after the last checkpoint; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LostWork:
    """Work that will be done again."""

    steps: int
    """As far as they were recorded."""
    seconds: float


def lost_work(records: Sequence[Mapping[str, Any]], step: int) -> LostWork:
    """Return what the records after `step` cost, from which a start resumes.

    Where the record of `step` itself is not there, its time is put between those of its neighbours
    in the same attempt.

    Args:
        records: of metrics.jsonl, oldest first.
        step: optimizer steps completed in the checkpoint.
    """
    after = [r for r in records if r["step"] > step]
    if not after:
        return LostWork(steps=0, seconds=0.0)
    last = after[-1]
    seconds = 0.0
    for attempt in dict.fromkeys(r.get("attempt") for r in after):
        timed = [r for r in records if r.get("attempt") == attempt and "time" in r]
        done_again = [r for r in timed if r["step"] > step]
        if done_again:
            seconds += done_again[-1]["time"] - _time_of(step, timed)
    return LostWork(steps=last["step"] - step, seconds=max(0.0, seconds))


def newest_saved(events: Sequence[Mapping[str, Any]]) -> int:
    """Return the step of the newest checkpoint that should be there; 0: none was saved.

    Args:
        events: of events.jsonl, oldest first. A start and a rollback settle where the run was.
    """
    settled = (e.get("step") for e in events if e["event"] in ("saved", "start", "rolled back"))
    return next((step for step in reversed([*settled]) if isinstance(step, int)), 0)


def _time_of(step: int, timed: Sequence[Mapping[str, Any]]) -> float:
    later = next(r for r in timed if r["step"] > step)
    earlier = [r for r in timed if r["step"] <= step]
    if not earlier:
        return float(later["time"])
    before = earlier[-1]
    share = (step - before["step"]) / (later["step"] - before["step"])
    return float(before["time"] + share * (later["time"] - before["time"]))
