"""How long saves and steps take, and how much time is left; measured on the coordinator."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from strategies import Look
from strategies.boundary.time_left import RESERVE_S, SLACK

from ...contract.environment import RankEnvironment
from ...contract.files.end_time import EndTime
from ...contract.preemption import PreemptionFlag

SAVES_KEPT = 3
STEPS_KEPT = 20
STEPS_JUDGED = 5
"""From then on it is known how long a step takes; the first ones warm up."""


class SaveDeadline:
    """What the coordinator tells the other ranks about the time; they take it from there."""

    def __init__(
        self,
        environment: RankEnvironment,
        flag: PreemptionFlag,
        end_time: EndTime,
        *,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            environment: How long the grace is.
            flag: Knows more once a warning has come.
            end_time: When the job's time is over, which a scheduler may move.
            warn: Told when a preemption leaves less time than a save needs.
            clock: Seconds since the epoch.
        """
        self._end_time = end_time
        self._grace_s = environment.grace_s
        self._flag = flag
        self._warn = warn
        self._clock = clock
        self._saves_s: deque[float] = deque(maxlen=SAVES_KEPT)
        self._steps_s: deque[float] = deque(maxlen=STEPS_KEPT)
        self._unit_s = 0.0
        self._boundary_at: float | None = None
        self._expected_s: float | None = None
        self._evaluations_s: dict[str, float] = {}
        self._has_warned = False

    def remember(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take over how long the saves of earlier attempts took."""
        for event in events:
            if event.get("event") == "saved" and isinstance(event.get("seconds"), int | float):
                self._saves_s.append(float(event["seconds"]))
        self._compare_with_grace()

    def saved(self, seconds: float) -> None:
        """Remember how long a save took, from the copy of the state to the commit."""
        self._saves_s.append(seconds)
        self._compare_with_grace()

    def expect(self, seconds: float) -> None:
        """Take what a save is estimated to need, until one is measured. Called in any thread."""
        self._expected_s = seconds
        self._compare_with_grace()

    @property
    def wants_estimate(self) -> bool:
        """Whether the time of a save matters, and none was measured."""
        limits = (self._end_time.now_s(), self._grace_s, self._flag.deadline)
        return not self._saves_s and any(limit is not None for limit in limits)

    @property
    def save_s(self) -> float | None:
        """Seconds that a save needs: the longest of late, else the estimate; None: not known."""
        return max(self._saves_s, default=self._expected_s)

    def passed(self, evaluation_s: float, units: int) -> None:
        """Note a boundary.

        Args:
            evaluation_s: since the one before, spent in evaluations.
            units: micro-batches of each rank since then; 0: no step.
        """
        now_s, before_s = self._clock(), self._boundary_at
        self._boundary_at = now_s
        if before_s is None or units == 0:
            return
        self._steps_s.append(max(0.0, now_s - before_s - evaluation_s))
        self._unit_s = self._steps_s[-1] / units
        if len(self._steps_s) == STEPS_JUDGED:
            self._compare_with_grace()

    def evaluated(self, name: str, seconds: float) -> None:
        """Remember how long an evaluation took."""
        self._evaluations_s[name] = seconds

    def evaluation_s(self, name: str) -> float:
        """Return how long an evaluation of this name took the last time; 0: it is not known."""
        return self._evaluations_s.get(name, 0.0)

    def look(self) -> Look:
        """Return what the coordinator gives to a round between the ranks."""
        asked, now_s = self._flag.requested, self._clock()
        known = (self._end_time.now_s(), self._flag.deadline)
        limits = [at for at in known if at is not None]
        if not limits:
            return Look(asked=asked, unit_s=self._unit_s)
        save_s = self.save_s
        return Look(
            asked=asked,
            time_is_limited=True,
            left_s=max(0.0, min(limits) - now_s),
            step_s=max(self._steps_s, default=0.0),
            save_s=-1.0 if save_s is None else save_s,
            unit_s=self._unit_s,
        )

    def _compare_with_grace(self) -> None:
        """Say it once where a preemption leaves less time than leaving needs."""
        save_s = self.save_s
        if self._has_warned or save_s is None or self._grace_s is None:
            return
        step_s = 0.0
        if len(self._steps_s) >= STEPS_JUDGED:
            step_s = statistics.median(self._steps_s)
        if (sentence := too_little_time(self._grace_s, step_s, save_s)) is not None:
            self._has_warned = True
            self._warn(sentence)


def fits_export(look: Look) -> bool:
    """Whether an export would end before the deadline, if one is known. Pure.

    It writes a part of what a save writes: that is how long it may take.
    """
    needs_s = SLACK * max(0.0, look.save_s) + RESERVE_S
    return not look.time_is_limited or look.left_s > needs_s


def too_little_time(grace_s: float, step_s: float, save_s: float) -> str | None:
    """Return the warning of a run that cannot leave within its grace; None where it can. Pure.

    Args:
        grace_s: from a notice to the end.
        step_s: how long a step takes; 0: not known.
        save_s: how long a save takes.
    """
    if step_s + save_s <= grace_s:
        return None
    grace = f"{grace_s:g} s after the notice" if grace_s else "without a notice"
    needs = f"a save of this run takes {save_s:.1f} s"
    if save_s <= grace_s:
        needs = f"exiting takes up to a step ({step_s:.1f} s) and a save ({save_s:.1f} s)"
    return (
        f"{needs}, and a preemption here ends it {grace}: then it resumes from the newest "
        "checkpoint. A longer --grace, or a shorter save_every, loses fewer steps."
    )
