"""Rounds in which the ranks learn of a preemption notice inside a step or an evaluation.

A boundary comes once a step, and an evaluation or an accumulated step may last minutes. Before each
micro-batch every rank starts a small sum of what it knows of a notice and of the time, and reads it
after that micro-batch's forward, when it has long arrived. Where micro-batches are short, some are
left out: how many is a function of numbers that came out of a round, so all ranks leave out alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter

from ..collectives.host_channel import PendingSum
from ..collectives.process_group import Ranks
from .time_left import RESERVE_S, SLACK, UNKNOWN_SAVE_S, TimeLeft

ROUND_EVERY_S = 0.05
"""Rounds need not come more often."""
MOST_LEFT_OUT = 100
"""Micro-batches between two rounds, whatever their time was before."""
FINISH_S = 1.0
"""A step that ends within this time is finished after a notice, if the deadline allows it."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one rank gives to a round; all about time is the coordinator's, others give zeros."""

    asked: bool = False
    """This rank has a preemption notice."""
    lacks_data: bool = False
    """And it has not got a batch since."""
    time_is_limited: bool = False
    left_s: float = 0.0
    """Until the ranks are killed."""
    step_s: float = 0.0
    """The longest step of late."""
    save_s: float = 0.0
    """Below 0: not known."""
    unit_s: float = 0.0
    """The time of a micro-batch, or of an evaluation's batch; 0: not known."""
    needed_s: float = 0.0
    """What an evaluation took the last time; 0: not known."""

    def numbers(self) -> list[float]:
        """Return what is summed, in the order of the fields."""
        return list(map(float, _IN_ORDER(self)))


_NAMES = tuple(field.name for field in fields(Look))
_IN_ORDER = attrgetter(*_NAMES)
NUM_NUMBERS = len(_NAMES)


@dataclass(frozen=True, kw_only=True)
class AgreedNotice:
    """The sum of all looks: the same on every rank."""

    asked: int
    """How many ranks have a preemption notice."""
    time: TimeLeft | None
    """None: no deadline is known."""
    lacks_data: int = 0
    """How many of them have not got a batch since."""
    unit_s: float = 0.0
    needed_s: float = 0.0

    @classmethod
    def of(cls, sums: list[float]) -> AgreedNotice:
        """Read the sums of `Look.numbers`; pure."""
        # In the order of the fields: this is done in each step, and by names it takes longer.
        asked, lacks_data, time_is_limited, left_s, step_s, save_s, unit_s, needed_s = sums
        time = None
        if time_is_limited:
            known_s = None if save_s < 0 else save_s
            time = TimeLeft(left_s=left_s, step_s=step_s, save_s=known_s)
        return cls(
            asked=round(asked),
            time=time,
            lacks_data=round(lacks_data),
            unit_s=unit_s,
            needed_s=needed_s,
        )

    def ends_step(self, units_left: int) -> bool:
        """Whether the step under way is given up, so that the one before is saved in time.

        Args:
            units_left: micro-batches of each rank that are not done yet.
        """
        rest_s = units_left * self.unit_s
        if self.lacks_data:
            return True
        return self.asked > 0 and (rest_s > FINISH_S or not self._fits(rest_s))

    def refuses(self) -> bool:
        """Whether an evaluation that took `needed_s` the last time is not to be begun."""
        return self.asked > 0 or not self._fits(self.needed_s)

    def _fits(self, rest_s: float) -> bool:
        if self.time is None:
            return True
        save_s = UNKNOWN_SAVE_S if self.time.save_s is None else self.time.save_s
        if self.asked:
            # The deadline is the notice's own, and there may be little to lose by trying.
            return self.time.left_s > SLACK * (rest_s + (self.time.save_s or 0.0))
        return rest_s == 0.0 or self.time.left_s > SLACK * (rest_s + save_s) + RESERVE_S


def left_out_after(unit_s: float) -> int:
    """Return before how many micro-batches there is no round, from a micro-batch's time. Pure."""
    if unit_s <= 0.0:
        return 0
    return min(MOST_LEFT_OUT, max(0, int(ROUND_EVERY_S / unit_s) - 1))


class NoticeRounds:
    """The rounds of one loop. Both methods are called on every rank, in turns.

    Args:
        ranks: between which the rounds go.
        look: returns what this rank gives.
    """

    def __init__(self, ranks: Ranks, look: Callable[[], Look]) -> None:
        self._ranks = ranks
        self._look = look
        self._pending: PendingSum | None = None
        self._left_out = 0

    def begin(self, *, must: bool = False) -> None:
        """Start a round, if one is due or must be. Called before a micro-batch's forward."""
        if self._left_out > 0 and not must:
            self._left_out -= 1
            return
        self._pending = self._ranks.channel.start(self._look().numbers())

    def end(self) -> AgreedNotice | None:
        """Return what came out of the round; None where none was due. Called after the forward."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        notice = AgreedNotice.of(pending.wait())
        self._left_out = left_out_after(notice.unit_s)
        return notice
