"""How long no rank has made progress, by the counts of their heartbeats."""

from collections.abc import Mapping

LONGEST_GAP_S = 2.0
"""More time than this between two looks has not passed for the ranks: the machine, or the
launcher with them, was suspended."""


class QuietClock:
    """Adds up the time in which no count has changed; from the first sign of any rank on.

    A script that gives no signs is never taken for hanging; `Run` gives its first before the ranks
    meet.
    """

    def __init__(self) -> None:
        self.quiet_s = 0.0
        self._looked_at: float | None = None
        self._counts: Mapping[int, int] = {}

    def look(self, now: float, counts: Mapping[int, int]) -> float:
        """Take the number of signs that each rank has given; return `quiet_s`."""
        gap_s = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        if not counts or counts != self._counts:
            self._counts = dict(counts)
            self.quiet_s = 0.0
        else:
            self.quiet_s += min(gap_s, LONGEST_GAP_S)
        return self.quiet_s
