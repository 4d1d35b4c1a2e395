"""The names in the run folder's JSON files, and the launcher's events there; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .lines.appending import append_lines, line_of
from .lines.fields import is_event, is_metric, is_whole_event
from .lines.reading import Lines

EVENTS = "events.jsonl"
METRICS = "metrics.jsonl"
ENDS = ("end", "already over")
"""Kinds of the event with which a start has ended by itself."""
ATTEMPT = "attempt"
"""The launcher's event at the end of an attempt, whether or not the script uses `Run`."""
LAUNCHED = "launched"
"""The launcher's event at the begin of an attempt of a script that does not use `Run`."""
FOLDER = "run folder"
"""The event that says where a run is kept whose record was begun in another folder."""


def event_of(kind: str, *, now: datetime | None = None, **details: Any) -> dict[str, Any]:
    """Return an event with its time; the file's lines are of this form."""
    time = (now or datetime.now(UTC)).isoformat(timespec="milliseconds")
    return {"time": time, "event": kind, **details}


def append_event(run_dir: Path, kind: str, **details: Any) -> None:
    """Append one event with its time.

    Raises:
        OSError: the file cannot be written.
    """
    append_lines(run_dir / EVENTS, line_of(event_of(kind, **details)))


def events_of(run_dir: Path) -> Lines:
    """Return the events of a run folder, to be read from either end."""
    return Lines(run_dir / EVENTS, is_event)


def whole_events_of(run_dir: Path) -> Lines:
    """Return those of them that hold every field of their kind."""
    return Lines(run_dir / EVENTS, is_whole_event)


def newest_start(run_dir: Path) -> dict[str, Any] | None:
    """Return the event of the ranks' newest start; None where there is none.

    Raises:
        OSError: the events are there and cannot be read.
    """
    events = Lines(run_dir / EVENTS, is_event, having=(b'"start"',))
    return next((event for event in reversed(events) if event["event"] == "start"), None)


def metrics_of(run_dir: Path) -> Lines:
    """Return the records of a run folder's metrics.jsonl, to be read from either end."""
    return Lines(run_dir / METRICS, is_metric)


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects in a file of JSON lines, whatever they hold.

    Raises:
        OSError: the file is there and cannot be read.
    """
    return iter(Lines(path, lambda record: True))
