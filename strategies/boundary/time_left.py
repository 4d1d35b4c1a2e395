"""Whether the time that is left is enough for a save: pure functions of agreed numbers."""

from __future__ import annotations

from dataclasses import dataclass

SLACK = 1.25
"""Saves take longer when a whole cluster saves at once."""
RESERVE_S = 5.0
"""For what follows a save: the ranks' end and the launcher's."""
UNKNOWN_SAVE_S = 30.0
"""What a first save is taken to need when the time limit comes near."""


@dataclass(frozen=True, kw_only=True)
class TimeLeft:
    """What the coordinator knew in the last backward of a step; the same on every rank after it."""

    left_s: float
    """From then until the ranks are killed."""
    step_s: float = 0.0
    """The longest way from one boundary to the next, of late."""
    save_s: float | None = None
    """The longest of the run's own saves, of late; before the first, what one is estimated to take.
    None: not known."""

    @property
    def is_running_out(self) -> bool:
        """Whether this is the time to save and to leave, though nobody has asked for it yet.

        A part of a step has passed since, and a whole one would before this is asked again.
        """
        save_s = UNKNOWN_SAVE_S if self.save_s is None else self.save_s
        return self.left_s < SLACK * (2 * self.step_s + save_s) + RESERVE_S

    @property
    def fits_a_save(self) -> bool:
        """Whether a save that begins now may end in time.

        Where it is close it is tried: a save that is cut off loses no more than one left out.
        """
        return self.save_s is None or self.left_s >= self.save_s
