"""Notices that no rank gets on any more, by their signs of life."""

from collections.abc import Mapping
from pathlib import Path

from ...contract.files.heartbeat import read_beat
from ...contract.quiet_clock import QuietClock

LOOK_S = 0.25
"""How often the ranks' files are read."""
_NAMED = 5


class HangWatch:
    """Looks at the files with the signs of life of this node's ranks."""

    def __init__(self, timeout_s: float, heartbeats: Mapping[int, Path]) -> None:
        self.timeout_s = timeout_s
        self._heartbeats = heartbeats
        self._clock = QuietClock()
        self._looked_at = 0.0
        self._steps: Mapping[int, int] = {}

    @property
    def step(self) -> int | None:
        """The last step which any rank has finished."""
        return max(self._steps.values(), default=None)

    def text(self, elsewhere: str = "") -> str:
        """Return why the ranks of this node are ended.

        Args:
            elsewhere: Which other node's ranks hung, without a full stop; empty: those here.
        """
        if elsewhere:
            return f"{elsewhere}; killing those of this node too."
        where_to = where(self._steps)
        return f"no rank made progress for {self.timeout_s:g} s{where_to}; killing all of them."

    def is_hung(self, now: float) -> bool:
        """Return whether no rank has sent a heartbeat for `timeout_s`; cheap, called often."""
        if now - self._looked_at < LOOK_S:
            return False
        self._looked_at = now
        beats = {rank: read_beat(path) for rank, path in self._heartbeats.items()}
        given = {rank: beat for rank, beat in beats.items() if beat is not None}
        self._steps = {rank: b.step for rank, b in given.items() if b.step is not None}
        counts = {rank: beat.count for rank, beat in given.items()}
        return self._clock.look(now, counts) >= self.timeout_s


def where(steps: Mapping[int, int]) -> str:
    """Return after which step ranks stand, from the last that each has finished; pure.

    Ranks that are behind are named: they may be in something that all ranks must do together.
    """
    if not steps:
        return ""
    newest = max(steps.values())
    behind: dict[int, list[str]] = {}
    for rank, step in sorted(steps.items()):
        if step < newest:
            behind.setdefault(step, []).append(str(rank))
    parts = [
        f"rank{'s' * (len(ranks) > 1)} {', '.join(ranks[:_NAMED])}"
        f"{' and others' * (len(ranks) > _NAMED)} after step {step}"
        for step, ranks in sorted(behind.items())
    ]
    return f" after step {newest}" + (f" ({'; '.join(parts)})" if parts else "")
