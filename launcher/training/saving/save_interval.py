"""When the next checkpoint is due, and what the last ones cost.

`save_every="auto"` follows J. W. Young, "A first order approximation to the optimum checkpoint
interval", CACM 17(9), 1974: saving every sqrt(2 * cost * time between failures) loses the least,
where the cost is the time for which one save stops the training.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ...run_folder.jsonl import ENDS
from ..recipe.interval import Every

FIRST_S = 0.25
"""The first save of a run, which shows what one costs, comes so early."""
LEAST_S = 0.1
MOST_S = 3600.0
"""More than an hour of work is never at stake, however cheap failures look."""
LEAST_DURATIONS = 3
"""Saves leave the disk to others for two thirds of the time."""
_REMEMBERED = 5


def time_between_failures_s(running_s: float, num_failures: int) -> float:
    """Return the expected time between two failures, in seconds. Pure.

    The mean of a failure rate known from `num_failures` in `running_s`. A run that has not failed
    yet is expected to last as long again as it has lasted: saves are close to each other when it is
    young, and it never pays more for them, in relation to its length, than Young's interval with
    its whole length between two failures.
    """
    return (FIRST_S + running_s) / (1 + num_failures)


def auto_interval_s(stall_s: float, duration_s: float, between_failures_s: float) -> float:
    """Return how long after a save the next one pays. Pure.

    Args:
        stall_s: how long a save stops the training.
        duration_s: from the copy of the state to the commit; a save in flight delays the next.
        between_failures_s: expected time between two failures.
    """
    youngs_s = math.sqrt(2 * stall_s * between_failures_s)
    return max(LEAST_S, LEAST_DURATIONS * duration_s, min(MOST_S, youngs_s))


def saves_of(events: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Return (stall, duration) in seconds of a run's newest saves, oldest first. Pure."""
    found = [
        (float(event["stall_s"]), float(event["seconds"]))
        for event in events
        if event.get("event") == "saved" and event.keys() >= {"next_in_s", "stall_s", "seconds"}
    ]
    return found[-_REMEMBERED:]


def failures_of(events: Sequence[Mapping[str, Any]]) -> tuple[float, int]:
    """Return (seconds that a run has been under way, attempts that did not end by themselves).

    Args:
        events: the lines of events.jsonl, oldest first. An attempt counts from its start to its
            last line. Clocks that were set back count as no time, lines without one are left out.
    """
    running_s, num_failures = 0.0, 0
    began: datetime | None = None
    last: datetime | None = None
    has_ended = True
    for event in events:
        if "time" not in event:
            continue
        now = datetime.fromisoformat(str(event["time"]))
        if event["event"] == "start":
            num_failures += not has_ended
            running_s += _between_s(began, last)
            began, has_ended = now, False
        elif event["event"] in ENDS:
            has_ended = True
        last = now
    return running_s + _between_s(began, last), num_failures + (not has_ended)


def _between_s(began: datetime | None, last: datetime | None) -> float:
    if began is None or last is None:
        return 0.0
    return max(0.0, (last - began).total_seconds())


class SaveInterval:
    """Measures saves. Every rank has one; only the coordinator's is asked whether one is due."""

    def __init__(
        self,
        every: Every,
        clock: Callable[[], float],
        *,
        running_s: float = 0.0,
        num_failures: int = 0,
        saves: Sequence[tuple[float, float]] = (),
    ) -> None:
        """Begin at a start of the run.

        Args:
            every: what was asked for.
            clock: seconds, monotonic.
            running_s: how long the run was under way before.
            num_failures: how many of its starts did not end by themselves.
            saves: stall and duration of the newest of its saves.
        """
        self._every = every
        self._clock = clock
        self._running_s = running_s
        self._num_failures = num_failures
        self._started_s = self._last_s = self._began_s = clock()
        self._stall_s = 0.0
        self._measured: deque[tuple[float, float]] = deque(saves, maxlen=_REMEMBERED)

    @classmethod
    def of_run(
        cls, every: Every, clock: Callable[[], float], events: Sequence[Mapping[str, Any]]
    ) -> SaveInterval:
        """Return the pace of a run that has been through these events."""
        running_s, num_failures = failures_of(events)
        return cls(
            every,
            clock,
            running_s=running_s,
            num_failures=num_failures,
            saves=saves_of(events),
        )

    @property
    def since_last_s(self) -> float:
        """Seconds since the training continued after the last save."""
        return self._clock() - self._last_s

    def is_due_after(self, step: int) -> bool:
        """Whether the count of steps asks for a save: the same on every rank."""
        return self._every.is_due(step)

    def is_due_now(self) -> bool:
        """Whether this rank's clock asks for a save."""
        interval_s = self.interval_s
        return interval_s is not None and self._clock() - self._last_s >= interval_s

    @property
    def interval_s(self) -> float | None:
        """Seconds from one save to the next; None where steps are counted."""
        if not self._every.auto:
            return self._every.seconds
        if not self._measured:
            return FIRST_S
        # The median: one slow disk in a while does not set the pace.
        stall_s = statistics.median(stall for stall, _ in self._measured)
        duration_s = statistics.median(duration for _, duration in self._measured)
        running_s = self._running_s + self._clock() - self._started_s
        between_s = time_between_failures_s(running_s, self._num_failures)
        return auto_interval_s(stall_s, duration_s, between_s)

    def begin(self) -> None:
        """Note that a save stops the training from now on."""
        self._began_s = self._clock()

    def go_on(self) -> None:
        """Note that the training continues: the save is in flight, done or has failed."""
        self._last_s = self._clock()
        self._stall_s = self.seconds

    def stood_still(self, seconds: float) -> None:
        """Note that the training waited again for the save in flight."""
        self._stall_s += seconds

    @property
    def seconds(self) -> float:
        """Since the save began."""
        return self._clock() - self._began_s

    def now(self) -> float:
        """Return the clock's seconds, for `concluded`."""
        return self._clock()

    def concluded(self, since_s: float) -> float:
        """Note that the save in flight was committed; return its stall in seconds.

        Args:
            since_s: when the training stopped for the commit.
        """
        stall_s = self._stall_s + self._clock() - since_s
        self._measured.append((stall_s, self.seconds))
        return stall_s
