"""How long saves and steps take, and how much time is left; measured on the coordinator."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from strategies import TimeLeft

from .environment import RankEnvironment
from .signals import PreemptionFlag

SAVES_KEPT = 3
STEPS_KEPT = 20


class SaveClock:
    """What the coordinator tells the other ranks about the time; they take it from there."""

    def __init__(
        self,
        environment: RankEnvironment,
        flag: PreemptionFlag,
        *,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            environment: When the machines are taken away, as known at the start.
            flag: Knows more once a warning has come.
            warn: Told when a preemption leaves less time than a save needs.
            clock: Seconds since the epoch.
        """
        self._end_time_s = environment.end_time_s
        self._grace_s = environment.grace_s
        self._flag = flag
        self._warn = warn
        self._clock = clock
        self._saves_s: deque[float] = deque(maxlen=SAVES_KEPT)
        self._steps_s: deque[float] = deque(maxlen=STEPS_KEPT)
        self._boundary_at: float | None = None
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

    def look(self) -> TimeLeft | None:
        """Return what is known at this boundary; None where no limit is."""
        now = self._clock()
        if self._boundary_at is not None:
            self._steps_s.append(now - self._boundary_at)
        self._boundary_at = now
        limits = [at for at in (self._end_time_s, self._flag.deadline) if at is not None]
        if not limits:
            return None
        return TimeLeft(
            left_s=max(0.0, min(limits) - now),
            step_s=max(self._steps_s, default=0.0),
            save_s=max(self._saves_s, default=None),
        )

    def _compare_with_grace(self) -> None:
        longest_s = max(self._saves_s, default=None)
        if self._has_warned or longest_s is None or self._grace_s is None:
            return
        if longest_s > self._grace_s:
            self._has_warned = True
            grace = f"{self._grace_s:g} s after its warning" if self._grace_s else "without warning"
            self._warn(
                f"a save of this run takes {longest_s:.1f} s, and a preemption here ends it "
                f"{grace}: then it goes on from the newest checkpoint. A shorter save_every loses "
                "fewer steps."
            )
