"""What only some ranks gather for a model's forward: found before the communication is at odds.

A forward may call a layer, or read `layer.weight`, on one rank and not on another: by chance, or
for some samples; and a rank may call the model more often than others for its batch. Where weights
are in shards that is a collective which the others take for another one: they get weights of
another layer, wait for ever, or gloo ends the process. So a rank that takes a turn which it has not
taken before says so in the store, where nobody is blocked, and waits until the others have said the
same. One that does not come, although it is at the same place, is named with what it does not do.

A turn is not asked about again, unless the ranks have taken another one at the same place too. An
evaluation has places of its own: it ends its batches without a backward.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from ..errors import ConfigError
from ..torch_internals import store_of_ranks
from .process_group import HostCommunicator, Ranks

AT_LEAST_S = 30.0
"""How long a rank is waited for that is in the same forward."""
TIMES_AS_LONG = 10.0
"""As this rank has needed for the forward so far, at least."""
AT_MOST_S = 1800.0
"""As long as a collective may take."""
_LONGEST_POLL_S = 0.02
_LOOK_AFTER_S = 0.5
"""When those are looked for that say something else: one by one, which takes long with many."""
_MOST_TURNS = 10_000
"""That are known; a model whose forward takes ever new ones is asked about each time."""
_CALLS, _RETURNS = "calls the model", "returns"
_CALLS_NO_MORE = "calls the model no more"


class Store(Protocol):
    """Of torch.distributed: what is used of it."""

    def set(self, key: str, value: str) -> None:
        """Put a value under a key."""

    def add(self, key: str, amount: int) -> int:
        """Add to a number, which begins with 0; return it."""

    def check(self, keys: list[str]) -> bool:
        """Return whether all of them have a value."""

    def get(self, key: str) -> bytes:
        """Return a value that is there."""

    def delete_key(self, key: str) -> bool:
        """Drop a value."""


@dataclass
class _Turn:
    """A place in a forward, and what came next there."""

    after: dict[str, _Turn] = field(default_factory=dict)


class _Path:
    """The turns of a forward, or the calls for a batch."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.num_known = 0
        self._first = _Turn()
        self.begin()

    def begin(self) -> None:
        """Go back to the beginning."""
        self.turn: _Turn | None = self._first
        """None: it is none of those that are known."""


class AgreedGathers:
    """Of one rank. All ranks do the same with it, unless they are refused."""

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        strategy: str,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Agree with the other ranks.

        Args:
            store: the same for all ranks, and for this object alone.
            rank: of this one.
            world_size: number of ranks.
            strategy: for sentences.
            now: a clock in seconds.
            sleep: waits as many seconds.
        """
        self._store, self._rank, self._strategy = store, rank, strategy
        self._others = [other for other in range(world_size) if other != rank]
        self._now, self._sleep = now, sleep
        self._paths = {
            trains: (_Path("in the model's forward"), _Path("for this batch"))
            for trains in (True, False)
        }
        self._forward, self._batch = self._paths[True]
        self._is_batch = self._is_call = self._is_to_begin = False
        self._num_agreed = self._num_batches = self._num_calls = 0
        self._began, self._dropped = 0.0, ""

    def begin_batch(self, *, trains: bool = True) -> None:
        """Begin a batch, for which every rank calls the model as often.

        Args:
            trains: Whether a backward follows.
        """
        self._is_batch, self._began = True, self._now()
        self._is_call = self._is_to_begin = False
        self._forward, self._batch = self._paths[trains]
        self._batch.begin()
        self._forward.begin()

    def end_batch(self, num_calls: Callable[[], int] | None = None) -> None:
        """Call the model no more for this batch.

        Args:
            num_calls: of layers, that the backward which comes now gathers for; None: none comes.

        Raises:
            ConfigError: another rank does, or gathers for another number.
        """
        if self._is_batch and self._others:
            what = _CALLS_NO_MORE
            if num_calls is not None:
                what += f" (its loss depends on {num_calls()} calls of layers)"
            self._take(self._batch, what)
            self._is_batch = False
            self._num_batches += 1
            self._show_place()

    def call(self) -> None:
        """Begin a call of the model. One that takes no turn (a getter) is nobody's matter."""
        self._is_to_begin = True

    def take(self, what: str) -> None:
        """Take the next turn of this forward: gather something.

        Args:
            what: begins with a verb, such as "calls layer".

        Raises:
            ConfigError: another rank does something else, or nothing, or does not call the model
                again for this batch.
        """
        if self._is_to_begin:
            self._begin_call()
        self._take(self._forward, what)

    def _begin_call(self) -> None:
        self._is_to_begin = False
        if self._is_batch:
            self._take(self._batch, _CALLS)
        self._num_calls += 1
        self._began, self._is_call = self._now(), True
        self._forward.begin()
        self._show_place()

    def returned(self) -> None:
        """End a call of the model.

        Raises:
            ConfigError: another rank gathers something more.
        """
        if self._is_call:  # of two, one in the other, the inner one
            self._take(self._forward, _RETURNS)
        self._is_call = self._is_to_begin = False

    def _take(self, path: _Path, what: str) -> None:
        if not self._others:
            return
        known = None if path.turn is None else path.turn.after.get(what)
        if known is None or (path.turn is not None and len(path.turn.after) > 1):
            self._agree(path, what)
        if known is None and path.turn is not None and path.num_known < _MOST_TURNS:
            known = path.turn.after[what] = _Turn()
            path.num_known += 1
        path.turn = known

    def _show_place(self) -> None:
        if self._others:
            self._store.set(f"place/{self._rank}", f"{self._num_batches} {self._num_calls}")

    def _agree(self, path: _Path, what: str) -> None:
        self._num_agreed += 1
        number = self._num_agreed
        self._store.set(f"{number}/{self._rank}", what)
        # One number for all: ranks by the hundred would ask for each other's words too often.
        key, everyone = f"{number}:{what}", len(self._others) + 1
        count = self._store.add(key, 1)
        asked, poll_s = self._now(), 0.0005
        patience = AT_MOST_S  # between two calls the script may take any time
        if path is self._forward:
            patience = max(AT_LEAST_S, TIMES_AS_LONG * (asked - self._began))
        while count < everyone:
            waited = self._now() - asked
            if waited > _LOOK_AFTER_S:
                self._refuse_unlike(path, number, what, waited, patience)
            self._sleep(poll_s)
            poll_s = min(2 * poll_s, _LONGEST_POLL_S)
            count = self._store.add(key, 0)
        if number > 1:  # all are past it
            self._store.delete_key(f"{number - 1}/{self._rank}")
            if not self._rank:
                self._store.delete_key(self._dropped)
        self._dropped = key

    def _refuse_unlike(
        self, path: _Path, number: int, what: str, waited: float, patience: float
    ) -> None:
        late = [one for one in self._others if not self._has_said_the_same(path, one, number, what)]
        ahead = [one for one in late if self._place_of(one) > (self._num_batches, self._num_calls)]
        here = [one for one in late if self._place_of(one) >= (self._num_batches, self._num_calls)]
        if ahead or (here and waited > patience) or (late and waited > AT_MOST_S):
            if self._store.add(f"{number}:{what}", 0) > len(self._others):
                return  # the last of them has said it meanwhile, and has gone on
            former = "" if path.turn is None else " or ".join(path.turn.after)
            usual = f", where it {former} in those before" if former else ""
            raise ConfigError(
                f"rank {self._rank} {what} {path.where}{usual}, and rank "
                f"{(ahead or here or late)[0]} has not done so within {waited:.0f} s. "
                f"{self._remedy}"
            )

    def _has_said_the_same(self, path: _Path, other: int, number: int, what: str) -> bool:
        key = f"{number}/{other}"
        if not self._store.check([key]):
            return False
        said = self._store.get(key).decode()
        if said != what:
            raise ConfigError(
                f"rank {self._rank} {what} {path.where}, and rank {other} {said}. {self._remedy}"
            )
        return True

    def _place_of(self, other: int) -> tuple[int, int]:
        key = f"place/{other}"
        if not self._store.check([key]):
            return -1, -1
        num_batches, num_calls = self._store.get(key).decode().split()
        return int(num_batches), int(num_calls)

    @property
    def _remedy(self) -> str:
        return (
            f"Under strategy={self._strategy} every rank must use the same layers in the same "
            "order, and as often, since it gathers their weights. Call the layer on every rank and "
            "multiply its output by 0 to leave it out, also out of the loss; make the number of "
            "calls independent of the samples (such as a fixed number of generated tokens); or use "
            "--strategy ddp or zero2."
        )


NOTHING_GATHERED = AgreedGathers(cast(Store, None), 0, 1, "")
"""Where calls of the model gather nothing that other ranks hold."""


def agreed_gathers(ranks: Ranks, strategy: str) -> AgreedGathers:
    """Return what agrees with the other ranks. Called on every rank."""
    # What an earlier start has left in the same store is not this one's.
    token = HostCommunicator(ranks).broadcast(uuid.uuid4().hex)
    store = store_of_ranks(f"relaunch-gathers/{token}")
    return AgreedGathers(store, ranks.rank, ranks.world_size, strategy)
