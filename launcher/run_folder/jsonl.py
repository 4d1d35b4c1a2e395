"""The lines of the run folder's JSON files, in the launcher and in a rank; no torch."""

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

EVENTS = "events.jsonl"
METRICS = "metrics.jsonl"
ENDS = ("end", "already over")
"""Kinds of the event with which a start has ended by itself."""
ATTEMPT = "attempt"
"""The launcher's event at the end of an attempt, whether or not the script uses `Run`."""
FOLDER = "run folder"
"""The event that says where a run is kept whose record was begun in another folder."""


def append_event(run_dir: Path, kind: str, *, now: datetime | None = None, **details: Any) -> None:
    """Append one event with its time.

    Raises:
        OSError: the file cannot be written.
    """
    time = (now or datetime.now(UTC)).isoformat(timespec="milliseconds")
    append_record(run_dir / EVENTS, {"time": time, "event": kind, **details})


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line to a file of JSON lines.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("ab+") as file:
        # A kill may have cut the last line off; what follows must not become part of it.
        lead = b"" if file.tell() == 0 or _ends_a_line(file) else b"\n"
        file.write(lead + json.dumps(record).encode() + b"\n")


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a JSONL file; a line cut off by a kill is not one."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def _ends_a_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
