"""Which lines are ours: what each record must hold, so that its readers need not ask. Pure.

A line that is none may come from a crash (a file system may leave anything in the last block), a
hand edit or another program. What it says is left out, and counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

Record = Mapping[str, Any]
IsRecord = Callable[[Record], bool]

_NUMBER = (int, float)
_METRIC_NUMBERS = frozenset(("time", "loss", "lr", "grad_norm", "samples_per_s", "evaluation_s"))
RATE_OF = "lr."
"""Begins the name of the rate of one of several optimizers."""
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("seconds", "stall_s", "next_in_s", "start_s", "lost_s", "value"), _NUMBER),
    **dict.fromkeys(
        ("attempt", "step", "world_size", "ranks", "code", "lost_steps", "job", "task"), int
    ),
    **dict.fromkeys(("size_bytes", "in_a_row", "from_step", "jumped_steps"), int),
    **dict.fromkeys(("strategy", "precision", "device", "ending", "reason", "where"), str),
    **dict.fromkeys(("monitor", "sentence", "path", "chosen", "what", "error"), str),
    **dict.fromkeys(("resumed", "restart"), bool),
}
"""Of the fields of events that somebody reads, where they are there and not null."""
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "start": ("attempt", "step", "strategy", "world_size", "precision", "device", "resumed"),
    "end": ("step", "ending", "reason"),
    "already over": ("ending", "reason"),
    "left": ("where",),
    "saved": ("step", "size_bytes", "stall_s"),
    "save failed": ("step", "reason"),
    "saves keep failing": ("in_a_row",),
    "best": ("step", "monitor", "value"),
    "checkpoint refused": ("reason",),
    "not deleted": ("reason",),
    "saved in the foreground": ("reason",),
    "rate cut": ("step", "reason"),
    "rolled back": ("from_step", "step", "jumped_steps"),
    "empty step": ("step",),
    "note": ("sentence",),
    "weights": ("path",),
    "strategy": ("chosen", "reason"),
    "changed": ("what",),
    "attempt": ("code",),
    "launched": ("attempt", "ranks"),
}
"""By kind, what a page or a line about the event is made of; another kind needs its time alone."""


def parse(line: bytes) -> dict[str, Any] | None:
    """Return the object that a line holds; None where it holds none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # cut off by a kill, no text, or nested without end
        return None
    return found if isinstance(found, dict) else None


def parse_all(lines: Sequence[bytes]) -> list[dict[str, Any]] | None:
    """Return the objects of lines that hold one each; None where one of them may not."""
    if not all(line.startswith(b"{") and line.endswith(b"}\n") for line in lines):
        return None
    try:
        found: list[Any] = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        return None
    return found if len(found) == len(lines) else None


def is_metric(record: Record) -> bool:
    """Return whether an object is a record of metrics.jsonl."""
    # A million of them are read for a report: types are compared, most of which are numbers.
    for name, value in record.items():
        kind = type(value)
        if kind is float or kind is int:
            continue
        if (
            name in _METRIC_NUMBERS
            or name.startswith(RATE_OF)
            or ("/" in name and kind is not list)
        ):
            return False
    return type(record.get("step")) is int and type(record.get("attempt", 0)) is int


def is_event(record: Record) -> bool:
    """Return whether an object is an event; what it holds is of the right type."""
    return (
        isinstance(record.get("event"), str)
        and ("time" not in record or _is_time(record["time"]))
        and all(_is(v, _TYPES[k]) for k, v in record.items() if k in _TYPES and v is not None)
        and _are_measurements(record)
    )


def is_whole_event(record: Record) -> bool:
    """Return whether an object is an event with its time and all that its kind must have."""
    return (
        is_event(record)
        and "time" in record
        and all(record.get(name) is not None for name in _NEEDED.get(record["event"], ()))
    )


def skipped_text(name: str, count: int) -> str:
    """Return the message about skipped lines."""
    lines = "1 line is not a record" if count == 1 else f"{count} lines are not records"
    return f"{name}: {lines} of a run (cut off, damaged, or another program's): skipped"


def _is(value: Any, types: type | tuple[type, ...]) -> bool:
    if isinstance(value, bool):  # is an int to Python
        return types is bool
    return isinstance(value, types)


def _are_measurements(record: Record) -> bool:
    """Return whether what was measured is numbers and tables, as its readers expect."""
    return all(_is(value, (*_NUMBER, list)) for name, value in record.items() if "/" in name)


def _is_time(value: Any) -> bool:
    try:
        # Without a zone it cannot be compared with the others.
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False
