"""Where the ranks of a loop that is not ours agree, once an optimizer step.

`strategies.boundary` with nothing of a strategy in it: any loop that all ranks pass through in the
same steps can use it. What one rank says at step k all ranks read at step k+1, so no step waits
for another rank, and what follows (a leave, a save, a stop) happens at the same step on all.
"""

from __future__ import annotations

from collections.abc import Callable

from checkpointing import JSON
from strategies import Agreed, AgreedNotice, Boundary, Look, Ranks, Report
from strategies.boundary.boundary import Carried


class AgreedBoundary:
    """The boundary of one loop. Every method is called on every rank, in the same order."""

    def __init__(self, ranks: Ranks, config: JSON, look: Callable[[], Look]) -> None:
        """Begin before the first step.

        Args:
            ranks: between which the sums go.
            config: must be the same on every rank.
            look: returns what this rank knows of a notice; on the coordinator of the time, too.
        """
        self._boundary = Boundary(ranks, config)
        self._look = look
        self._wait: Callable[[], Carried] | None = None
        self._notice: AgreedNotice | None = None

    def passed(self, report: Report) -> tuple[Agreed | None, AgreedNotice | None]:
        """Say what this rank knows after a step; return what all said after the one before.

        Returns:
            None and None at the first step.

        Raises:
            DesyncError: the ranks are at different steps, or were configured differently.
        """
        self._read()
        agreed, notice = self._boundary.receive(), self._notice
        self._notice = None
        self._boundary.hold(report)
        self._wait = self._boundary.carry(0.0, self._look())
        return agreed, notice

    def drain(self) -> Agreed | None:
        """Let nothing be under way, before other collectives; return what `passed` will return."""
        self._read()
        self._boundary.drain()
        return self._boundary.peek()

    def _read(self) -> None:
        if self._wait is not None:
            self._notice = self._wait().notice
            self._wait = None
