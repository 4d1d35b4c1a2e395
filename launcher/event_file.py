"""events.jsonl: one line for each thing that happened to a run."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"


def append_event(folder: Path, kind: str, *, now: datetime | None = None, **details: Any) -> None:
    """Append one line to the run folder's events.

    Called on the coordinator, or in the launcher of node 0 while no rank runs.

    Raises:
        OSError: It cannot be written.
    """
    time = (now or datetime.now(UTC)).isoformat(timespec="milliseconds")
    record = {"time": time, "event": kind, **details}
    with (folder / EVENTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
