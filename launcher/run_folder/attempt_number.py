"""The number of an attempt: one count in a run's folder, from 1, for its logs and its events.

The launcher draws it, since a start may fail before its ranks write anything; `Run` takes it over.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .jsonl import EVENTS
from .lines.fields import Record
from .lines.reading import Lines

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
    return last_number(_newest_numbered(run_dir)) + 1


def number_in(run_dir: Path) -> int:
    """Return the number of the attempt that has just ended, where `Run` has drawn it by itself.

    That is of the ranks' start, or where they wrote none the one after the launcher's last.
    """
    events = _newest_numbered(run_dir)
    return max(last_number(events, (_OF_RANKS,)), last_number(events, (_OF_LAUNCHER,)) + 1)


def _newest_numbered(run_dir: Path | None) -> list[Record]:
    """Return the numbered events, back to the newest start of the ranks, which has the highest.

    Nothing older is read, so that a run's thousandth start costs what its first does.
    """
    found: list[Record] = []
    if run_dir is None:
        return found
    kinds = tuple(f'"{kind}"'.encode() for kind in (_OF_RANKS, _OF_LAUNCHER))
    with suppress(OSError):
        for event in reversed(Lines(run_dir / EVENTS, _is_numbered, having=kinds)):
            found.append(event)
            if event["event"] == _OF_RANKS:
                break
    return found


def _is_numbered(event: Record) -> bool:
    is_known = event.get("event") in (_OF_RANKS, _OF_LAUNCHER)
    return is_known and isinstance(event.get("attempt"), int)
