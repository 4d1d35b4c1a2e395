"""The history of a run, read from its folder, during the run or afterwards; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..terminal.printable import printable_values
from .folder import RunFolder
from .jsonl import ATTEMPT, ENDS, EVENTS, LAUNCHED, METRICS, whole_events_of
from .records.kept_summary import summary_of
from .records.summary import RecordSummary

Record = Mapping[str, Any]
_TOLD = {"attempt", "ranks", "code", "seconds"}
"""What the launcher tells of an attempt."""
SIGNS = ("start", "saved", "best", *ENDS)
"""Kinds of events that show a run to live."""


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """One start of the run, with what it did until the next."""

    number: int
    began_s: float
    """When its loop could begin, in seconds since the epoch."""
    start_s: float
    """How long it took until then."""
    step: int
    """Optimizer steps completed at its start."""
    strategy: str
    world_size: int
    precision: str
    device: str
    lost_steps: int
    """Steps of the attempts before that are done again."""
    lost_s: float
    end_step: int
    last_sign_s: float
    """The last moment at which it was seen to live."""
    ending: str | None = None
    """None: it is going on, or was killed."""
    reason: str = ""
    code: int | None = None
    """The exit code as the launcher saw it; None: it runs, or no launcher has seen its end."""
    error: str | None = None
    """What the launcher knows of a failure."""

    @property
    def command_s(self) -> float:
        """When its command was given."""
        return self.began_s - self.start_s


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A run, as recorded in its folder."""

    path: Path
    description: Mapping[str, Any]
    """run.json."""
    records: RecordSummary
    """Of metrics.jsonl."""
    events: Sequence[Record]
    """events.jsonl."""
    attempts: Sequence[AttemptRecord]
    skipped: Mapping[str, int] = field(default_factory=dict)
    """How many lines of which file were no records."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def step(self) -> int:
        """Optimizer steps that are known to be completed."""
        return max((a.end_step for a in self.attempts[-1:]), default=0)

    @property
    def best(self) -> Record | None:
        """The best evaluation that the newest attempt's past knows of."""
        found: list[Record] = []
        for event in self.events:
            if event["event"] in ("start", "rolled back"):
                # What came after the step to which the run went back is not of its past.
                found = [best for best in found if best["step"] <= event["step"]]
            elif event["event"] == "best":
                found.append(event)
        return found[-1] if found else None

    @property
    def is_over(self) -> bool:
        """Whether the run has finished, so that the same command does not train on."""
        last = self.attempts[-1].ending if self.attempts else None
        return last is not None and last != "preempted"

    @property
    def is_known_to_launcher_alone(self) -> bool:
        """Whether the script does not use `Run`, or never came to it."""
        return bool(self.attempts) and not self.of("start")

    def of(self, kind: str) -> list[Record]:
        """Return the events of one kind, oldest first."""
        return [event for event in self.events if event["event"] == kind]


def read_run(path: Path) -> RunFacts:
    """Read a run folder; every text in it as `printable` shows it.

    Of a long metrics.jsonl only what is new since the last call, whose summary is kept beside it.

    Raises:
        UsageError: it is none.
    """
    if not (path / EVENTS).is_file():
        what = "is not a folder" if not path.is_dir() else f"holds no {EVENTS}"
        raise UsageError(f"{path} {what}; pass a run folder, such as runs/train.")
    records, num_no_records = summary_of(path / METRICS)
    lines = whole_events_of(path)
    events = printable_values(list(lines))
    skipped = {METRICS: num_no_records, EVENTS: lines.skipped}
    return RunFacts(
        path=path,
        description=printable_values(RunFolder(path).description()),
        records=records,
        events=events,
        attempts=attempts_of(records.attempts, events),
        skipped={name: count for name, count in skipped.items() if count},
    )


def is_over(path: Path) -> bool:
    """Return whether the run in a folder has finished; only its newest start is read.

    Raises:
        OSError: the events are there and cannot be read.
    """
    ending = None
    for event in reversed(whole_events_of(path)):
        if event["event"] in ENDS:
            ending = event["ending"]
        if event["event"] == "start":
            break
    return ending is not None and ending != "preempted"


def attempts_of(
    recorded: Mapping[object, tuple[int, float]], events: Sequence[Record]
) -> list[AttemptRecord]:
    """Return the starts of a run, each with what followed it; pure.

    Args:
        recorded: by attempt the highest step that was recorded, and the newest time.
        events: all of the run.
    """
    by_launcher = {e["attempt"]: e for e in events if e["event"] == ATTEMPT and e.keys() >= _TOLD}
    cuts = [number for number, event in enumerate(events) if event["event"] == "start"]
    pieces = [events[a:b] for a, b in pairwise([*cuts, len(events)])]
    found = []
    for number, piece in enumerate(pieces):
        following = pieces[number + 1][0] if number + 1 < len(pieces) else None
        found.append(_attempt(piece, following, recorded, by_launcher))
    return found or _told_by_launcher(events, by_launcher)


def _told_by_launcher(
    events: Sequence[Record], by_launcher: Mapping[int, Record]
) -> list[AttemptRecord]:
    """Return the attempts of a script that tells nothing; one without an end may be under way."""
    under_way = {
        e["attempt"]: e
        for e in events
        if e["event"] == LAUNCHED and e["attempt"] not in by_launcher
    }
    found = [_launched(event) for event in by_launcher.values()]
    found += [_launched({**event, "code": None, "seconds": 0.0}) for event in under_way.values()]
    return sorted(found, key=lambda attempt: attempt.number)


def _launched(event: Record) -> AttemptRecord:
    """Return an attempt that only the launcher has recorded."""
    ended_s = seconds_of(event)
    return AttemptRecord(
        number=event["attempt"],
        began_s=ended_s - event["seconds"],
        start_s=0.0,
        step=0,
        strategy="",
        world_size=event["ranks"],
        precision="",
        device="",
        lost_steps=0,
        lost_s=0.0,
        end_step=event.get("step") or 0,
        last_sign_s=ended_s,
        code=event["code"],
        error=event.get("error"),
    )


def _attempt(
    piece: Sequence[Record],
    following: Record | None,
    recorded: Mapping[object, tuple[int, float]],
    by_launcher: Mapping[int, Record],
) -> AttemptRecord:
    start = piece[0]
    seen = by_launcher.get(start["attempt"], {})
    step, last_sign_s = recorded.get(start["attempt"], (start["step"], float("-inf")))
    end = next((e for e in piece if e["event"] in ENDS), None)
    signs = [seconds_of(e) for e in piece if e["event"] in SIGNS]
    last_sign_s = max(last_sign_s, *signs)
    end_step = max(start["step"], step)
    if following is not None and end is None:
        # Its last records are gone, because their steps were done again.
        last_sign_s += following.get("lost_s", 0.0)
        end_step = following["step"] + following.get("lost_steps", 0)
    return AttemptRecord(
        number=start["attempt"],
        began_s=seconds_of(start),
        start_s=start.get("start_s", 0.0),
        step=start["step"],
        strategy=start["strategy"],
        world_size=start["world_size"],
        precision=start["precision"],
        device=start["device"],
        lost_steps=start.get("lost_steps", 0),
        lost_s=start.get("lost_s", 0.0),
        end_step=end_step if end is None else end.get("step", start["step"]),
        last_sign_s=seconds_of(end) if end is not None else last_sign_s,
        ending=None if end is None else end["ending"],
        reason="" if end is None else end["reason"],
        code=seen.get("code"),
        error=seen.get("error"),
    )


def seconds_of(event: Record) -> float:
    """Return an event's time in seconds since the epoch."""
    return datetime.fromisoformat(event["time"]).timestamp()
