"""What one rank knows of a preemption notice, as its script and its loops want to know it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ...contract.preemption import PreemptionFlag

PATIENCE_S = 1.0
"""After a notice data is waited for so long before the step is given up."""


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A preemption notice; see `Run.notice`."""

    cause: str
    """As a person says it: "SIGTERM", "Ctrl-C", "preempted"."""
    left_s: float | None
    """Seconds until the ranks are killed; None: no deadline is known."""


def notice_of(flag: PreemptionFlag, now_s: float) -> Notice | None:
    """Return the notice that this rank has; None: it has none.

    Args:
        flag: the rank's.
        now_s: seconds since the epoch.
    """
    cause = flag.cause
    if cause is None:
        return None
    deadline = flag.deadline
    left_s = None if deadline is None else max(0.0, deadline - now_s)
    return Notice(cause=cause, left_s=left_s)


class DataPatience:
    """Decides when a rank that has a notice stops waiting for data.

    Args:
        flag: the rank's.
        save_s: returns how long a save takes, as far as known.
        clock: seconds, monotonic.
        epoch: seconds since the epoch.
    """

    def __init__(
        self,
        flag: PreemptionFlag,
        *,
        save_s: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self._flag = flag
        self._save_s = save_s
        self._clock = clock
        self._epoch = epoch
        self._began_s = clock()
        self._noticed_s: float | None = None

    def begin(self) -> None:
        """Data is waited for from now on."""
        self._began_s = self._clock()

    def is_over(self) -> bool:
        """Whether to continue without it. Called repeatedly while waiting for it."""
        if not self._flag.requested:
            return False
        now_s = self._clock()
        if self._noticed_s is None:
            self._noticed_s = now_s
        deadline = self._flag.deadline
        left_s = PATIENCE_S
        if deadline is not None:
            left_s = min(PATIENCE_S, (deadline - self._epoch() - 2 * self._save_s()) / 4)
        return now_s - max(self._began_s, self._noticed_s) >= left_s
