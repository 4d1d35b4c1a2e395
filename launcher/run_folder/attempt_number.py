"""The number of an attempt: one count in a run's folder, from 1, for its logs and its events.

The launcher draws it, since a start may fail before its ranks write anything; `Run` takes it over.
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from .jsonl import EVENTS, records

_OF_RANKS, _OF_LAUNCHER = "start", "attempt"
"""The kinds of events with an attempt's number."""


def last_number(
    events: Iterable[Mapping[str, Any]], kinds: Collection[str] = (_OF_RANKS, _OF_LAUNCHER)
) -> int:
    """Return the highest number among the events; 0 where there is none. Pure."""
    numbers = (event.get("attempt") for event in events if event.get("event", "") in kinds)
    return max((number for number in numbers if isinstance(number, int)), default=0)


def next_number(run_dir: Path | None) -> int:
    """Return the number after the last one in a run's folder; 1 where nothing is known."""
    if run_dir is None:
        return 1
    try:
        return last_number(records(run_dir / EVENTS)) + 1
    except (OSError, ValueError):
        return 1


def number_in(run_dir: Path) -> int:
    """Return the number of the attempt that has just ended, where `Run` has drawn it by itself.

    That is of the ranks' start, or where they wrote none the one after the launcher's last.
    """
    try:
        events = list(records(run_dir / EVENTS))
    except (OSError, ValueError):
        return 1
    return max(last_number(events, (_OF_RANKS,)), last_number(events, (_OF_LAUNCHER,)) + 1)
