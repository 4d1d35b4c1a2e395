"""Where each rank has come to, so that one which leaves alone is named at once.

Ranks work together in a few calls: prepare, the training loop, evaluate, export, test. A rank that
leaves the loop by `break`, or ends early, would let the others wait in a collective until its
time-out. Here each call is noted in the ranks' common store, under the rank's own key: a rank that
ends compares, and says who is missing where. No collective is involved.
"""

# Note: how a rank that leaves alone is named
#
# All ranks must make the same calls: prepare, each step, each evaluation, export, test. A rank that
# leaves the loop by `break`, returns early or raises, leaves the others in a collective that cannot
# end. torch reports that after half an hour, as a time-out of an operation with a number.
#
# Here each rank notes each such call in the store that torch's rendezvous has opened, under its own
# key: how many calls so far, which one this is, the line of the script, the step. Writing a key
# takes no other rank. Reading happens only where a rank has come to its end: it compares its number
# of calls with the others'. If another rank has made more, the ranks have parted ways, and the
# sentence can name both lines of the script.
#
# A rank that has left a loop may still be doing something that ends well (closing files, an except
# clause). It gets LEFT_S for it; then a timer ends the process with the sentence. The timer is a
# thread, and does nothing but write a file and leave: no collective.
#
# The other direction, a rank that is alone in a collective, is not seen here but by `--hang-
# timeout`, by the heartbeats.

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed import distributed_c10d

from strategies import ConfigError, Ranks, StrategyError

LEFT_S = 5.0
"""How long a rank that has left the loop may do other things before it is ended."""
LONGEST_WAIT_S = 1800.0
"""For ranks that have not come to the end; as long as a collective waits."""
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.001, 0.1
"""The pause between two looks at the others doubles: they mostly end within milliseconds."""
_KEY = "relaunch/lockstep/{}"
_OWN = tuple(f"{Path(__file__).parents[2] / name}{os.sep}" for name in ("launcher", "strategies"))


EndProcess = Callable[[str, bool], None]
"""Takes the sentence about a rank that left, and whether its start had completed a step."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """The newest call of a rank."""

    calls: int
    """Calls so far."""
    what: str
    """Such as "job.export"."""
    where: str
    """File and line of the user's."""
    step: int
    """The step it was in, or had finished."""
    ended: bool = False
    """`main` has returned."""


class Lockstep:
    """This rank's calls; the others' are read when this one ends."""

    def __init__(self, ranks: Ranks, end_process: EndProcess) -> None:
        """Take what ends this process, from a thread."""
        self._ranks = ranks
        self._end_process = end_process
        self._now = Stop(calls=0, what="main", where="its first line", step=0)
        self._departure: str | None = None
        self._timer: threading.Timer | None = None
        self.step = 0
        """The step that this rank is in."""
        self.has_trained = False
        """Whether this start has completed a step: what goes wrong from then on costs something."""
        self.loop: str | None = None
        """What this rank iterates over, while it does."""

    def enter(self, what: str) -> None:
        """Note a call that all ranks make together.

        Raises:
            ConfigError: this rank has left the training loop.
        """
        self._refuse_after_departure()
        self._note(Stop(calls=self._now.calls + 1, what=what, where=users_line(), step=self.step))

    def follow(self, main: Callable[[], None]) -> None:
        """Call the script's `main` and wait until all ranks have ended theirs; see `end`.

        `sys.exit()` is one of the ways to end it; with another code than 0 it is a failure.
        """
        try:
            main()
        except SystemExit as leaving:
            if leaving.code not in (None, 0):
                raise
            if self.loop is not None:
                what = f"{self.loop} in step {self.step}"
                raise ConfigError(self._sentence(what, where_raised(leaving))) from None
        self.end()

    def leave(self, what: str) -> str:
        """Note that a loop of ours is left early; called while it is closed, so it cannot raise.

        Returns:
            The sentence with which the rank is to be ended.
        """
        self._departure = self._sentence(what, users_line())
        if self._ranks.world_size > 1 and self._timer is None:
            self._timer = threading.Timer(LEFT_S, self.end_process, (self._departure,))
            self._timer.daemon = True
            self._timer.start()
        return self._departure

    def end_process(self, sentence: str) -> None:
        """End this rank, which has left its loop and runs on alone; called in a thread."""
        self._end_process(sentence, self.has_trained)

    def stay(self) -> None:
        """Take back what `leave` has begun: the process ends for a reason of its own."""
        if self._timer is not None:
            self._timer.cancel()

    def describe(self, error: BaseException) -> str:
        """Return where this rank was when an exception ended it."""
        where = where_raised(error)
        return f"on rank {self._ranks.rank}, in step {self.step}" + (f" ({where})" if where else "")

    def end(self) -> None:
        """Wait until all ranks have ended `main`. Called on every rank, at its end.

        Raises:
            ConfigError: this rank has left a loop, or ended while others continued to something
                that all ranks must do.
            StrategyError: the others do not come.
        """
        self._refuse_after_departure()
        self._note(Stop(**{**asdict(self._now), "ended": True, "step": self.step}))
        deadline_s = time.monotonic() + LONGEST_WAIT_S
        pause_s = _FIRST_LOOK_S
        while missing := self._others():
            sentence = disagreement(self._ranks.rank, self._now, missing)
            if sentence is not None:
                raise ConfigError(sentence)
            if time.monotonic() > deadline_s:
                names = ", ".join(map(str, missing))
                raise StrategyError(
                    f"rank {self._ranks.rank} has returned from main and waited "
                    f"{LONGEST_WAIT_S:g} s for rank {names} to return from it too."
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_LOOK_S)

    def _sentence(self, what: str, where: str | None) -> str:
        alone = "" if self._ranks.world_size == 1 else "; the other ranks would wait for it"
        return (
            f"rank {self._ranks.rank} left {what} by break, return, sys.exit() or an exception "
            f"({where or 'an unknown line'}){alone}. To end a run call job.stop(), on any rank: "
            "all save and leave at the same step."
        )

    def _refuse_after_departure(self) -> None:
        if self._departure is not None:
            self.stay()
            raise ConfigError(self._departure)

    def _note(self, stop: Stop) -> None:
        self._now = stop
        if self._ranks.world_size > 1:
            common_store().set(_KEY.format(self._ranks.rank), json.dumps(asdict(stop)))

    def _others(self) -> dict[int, Stop]:
        """Return where the ranks are that have not ended as this one has."""
        found: dict[int, Stop] = {}
        for rank in range(self._ranks.world_size):
            key = _KEY.format(rank)
            if rank == self._ranks.rank:
                continue
            known = common_store().check([key])
            stop = Stop(**json.loads(common_store().get(key))) if known else _NOWHERE
            if not (stop.ended and stop.calls == self._now.calls):
                found[rank] = stop
        return found


_NOWHERE = Stop(calls=0, what="main", where="its first line", step=0)


def disagreement(rank: int, mine: Stop, others: Mapping[int, Stop]) -> str | None:
    """Return what is wrong where another rank did more than this one, which has ended; pure."""
    for other, stop in sorted(others.items()):
        if stop.calls > mine.calls:
            return (
                f"rank {rank} ended main after {mine.what} ({mine.where}, step {mine.step}), and "
                f"rank {other} went on to {stop.what} ({stop.where}, step {stop.step}), which needs"
                " all ranks. Do not return early on some ranks."
            )
    return None


def users_line(frame: FrameType | None = None) -> str:
    """Return file and line of the innermost frame that is not ours, as "train.py:41"."""
    frame = frame or sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OWN):
        frame = frame.f_back
    return "an unknown line" if frame is None else _line(frame.f_code.co_filename, frame.f_lineno)


def where_raised(error: BaseException) -> str | None:
    """Return the innermost line of the user's script that an exception came through.

    That is the last frame in the file in which the traceback passes through first after ours.
    """
    found, script, trace = None, None, error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith(_OWN):
            script = script or name
            if name == script:
                found = _line(name, trace.tb_lineno)
        trace = trace.tb_next
    return found


@lru_cache(maxsize=64)
def _line(name: str, number: int) -> str:
    return f"{Path(name).name}:{number}"


def common_store() -> Any:
    """Return the store of the process group, which all ranks share."""
    # torch offers no public name for the store that init_process_group has made.
    return distributed_c10d._get_default_store()
