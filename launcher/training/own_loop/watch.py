"""Reports a rank that has omitted a call which all ranks make, while the others wait for it.

A rank that waits for longer than a moment says in the common store what it waits for; each rank
looks there about once a second, in a thread, and ends itself where it has gone past that. No
collective is involved, and slowness is no fault: only a rank that has begun another batch is named.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass

from strategies import Ranks

from ..lockstep import common_store, users_line

PATIENCE_S = 3.0
"""A wait of this length is made known."""
LOOK_S = 1.0
_RANKS_A_LOOK = 64
"""Among more ranks each looks less often: one store answers all."""
_KEY = "relaunch/own_loop/waits"


@dataclass(frozen=True, kw_only=True)
class Wait:
    """What a rank waits for."""

    rank: int
    what: str
    """Such as "run.step"."""
    where: str
    """File and line of the user's."""
    calls: int
    """So many calls a rank must have made..."""
    batch: int
    """...before it begins a later batch than this."""


def parted(rank: int, calls: int, batch: int, wait: Wait) -> str | None:
    """Return what is wrong where this rank has gone past what another waits for; pure.

    Args:
        rank: this one.
        calls: that it has made.
        batch: the one that it has begun last, counted from this start.
        wait: of the other.
    """
    if calls >= wait.calls or batch <= wait.batch:
        return None
    return (
        f"rank {rank} went on to batch {batch} of this start after {calls} calls of run.step and "
        f"run.evaluated, and rank {wait.rank} waits in {wait.what} ({wait.where}) for a call that "
        f"belongs to batch {wait.batch}. Every rank must make the same calls after the same "
        "batches: none under `if rank == 0`, and no `continue` or `break` on some ranks alone."
    )


class Watch:
    """This rank's calls. Nothing is done on one process."""

    def __init__(self, ranks: Ranks, *, end_process: Callable[[str], None]) -> None:
        """Take what ends this process with a sentence, from a thread."""
        self._ranks = ranks
        self._end_process = end_process
        self.batches = 0
        """Begun by this start."""
        self.calls = 0
        """Made by this start."""
        self._wait: tuple[str, int, int] | None = None
        """What the loop waits for now, the calls and the batch. It is set in each step: the clock
        and the user's line are for the thread to look at, where a wait is long."""
        self._seen: tuple[str, int, int] | None = None
        self._seen_at_s = 0.0
        self._loop_thread = threading.get_ident()
        self._is_over = threading.Event()
        if ranks.world_size > 1:
            threading.Thread(target=self._look, name="relaunch-watch", daemon=True).start()

    def waiting(self, what: str, *, calls: int, batch: int) -> AbstractContextManager[Watch]:
        """Note that this rank waits in the block until all have made so many calls."""
        self._wait = what, calls, batch
        return self

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._wait = None

    def close(self) -> None:
        """End the looking."""
        self._is_over.set()

    def _look(self) -> None:
        every_s = LOOK_S * max(1.0, self._ranks.world_size / _RANKS_A_LOOK)
        with suppress(Exception):  # the script has closed its process group
            while not self._is_over.wait(every_s):
                self._tell()
                self._compare()

    def _tell(self) -> None:
        wait = self._long_wait(time.monotonic())
        if wait is not None:
            common_store().set(_KEY, json.dumps(asdict(wait)))

    def _long_wait(self, now_s: float) -> Wait | None:
        """Return what the loop waits for, if that was so already so long ago; None: it is not."""
        noted = self._wait
        if noted is not self._seen or noted is None:
            self._seen, self._seen_at_s = noted, now_s
            return None
        if now_s - self._seen_at_s < PATIENCE_S:
            return None
        what, calls, batch = noted
        frame = sys._current_frames().get(self._loop_thread)
        if frame is None or self._wait is not noted:  # it has come to its end meanwhile
            return None
        rank, where = self._ranks.rank, users_line(frame)
        return Wait(rank=rank, what=what, where=where, calls=calls, batch=batch)

    def _compare(self) -> None:
        if not common_store().check([_KEY]):
            return
        wait = Wait(**json.loads(common_store().get(_KEY)))
        sentence = parted(self._ranks.rank, self.calls, self.batches, wait)
        if sentence is not None:
            self._end_process(sentence)
