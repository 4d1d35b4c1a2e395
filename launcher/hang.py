"""Notices that no rank gets on any more, by their signs of life."""

from collections.abc import Mapping
from pathlib import Path

from .heartbeat import read_beat

LOOK_S = 0.25
"""How often the ranks' files are read."""
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


class HangWatch:
    """Looks at the files with the signs of life of this node's ranks."""

    def __init__(self, timeout_s: float, heartbeats: Mapping[int, Path]) -> None:
        self.timeout_s = timeout_s
        self._heartbeats = heartbeats
        self._clock = QuietClock()
        self._looked_at = 0.0
        self.step: int | None = None
        """The last step which any rank has finished."""

    def text(self, elsewhere: str = "") -> str:
        """Return why the ranks of this node are ended.

        Args:
            elsewhere: Which other node's ranks hung, without a full stop; empty: those here.
        """
        if elsewhere:
            return f"{elsewhere}; killing those of this node too."
        after = "" if self.step is None else f" after step {self.step}"
        return f"no rank got on for {self.timeout_s:g} s{after}; killing all of them."

    def is_hung(self, now: float) -> bool:
        """Tell whether no rank has given a sign for `timeout_s`; cheap, called at each look."""
        if now - self._looked_at < LOOK_S:
            return False
        self._looked_at = now
        beats = {rank: read_beat(path) for rank, path in self._heartbeats.items()}
        given = {rank: beat for rank, beat in beats.items() if beat is not None}
        self.step = max((b.step for b in given.values() if b.step is not None), default=None)
        counts = {rank: beat.count for rank, beat in given.items()}
        return self._clock.look(now, counts) >= self.timeout_s
