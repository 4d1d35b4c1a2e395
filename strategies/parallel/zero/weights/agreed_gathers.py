"""Weights that only some ranks gather under stage 3: found before the communication is at odds.

A forward may call a layer, or read `layer.weight`, on one rank and not on another: by chance, or
for some samples. Under stage 3 that is a collective which the others take for another one, and gloo
ends the process. So a rank whose forward takes a turn that it has not taken before says so in the
store, where nobody is blocked, and waits until the others have said the same. One that does not
come, although it is in the same forward, is named with what it does not do.

A turn that was once agreed on is not asked about again. Ranks that later take different ones of
these are not found.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from ....collectives.process_group import HostCommunicator, Ranks
from ....errors import ConfigError
from ....torch_internals import store_of_ranks
from ..internals import is_gathered

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
"""Of all forwards; a model whose forward takes ever new ones is not asked about for ever."""

REMEDY = (
    "Under strategy=zero3 every rank must use the same layers in the same order, since it gathers "
    "their weights. Call the layer on every rank and multiply its output by 0 to leave it out, or "
    "use --strategy ddp."
)


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


class AgreedGathers:
    """Of one rank."""

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Agree with the other ranks.

        Args:
            store: the same for all ranks, and for this object alone.
            rank: of this one.
            world_size: number of ranks.
            now: a clock in seconds.
            sleep: waits as many seconds.
        """
        self._store, self._rank = store, rank
        self._others = [other for other in range(world_size) if other != rank]
        self._now, self._sleep = now, sleep
        self._first = _Turn()
        self._turn = self._first
        self._num_turns = self._num_agreed = self._num_forwards = 0
        self._began = 0.0

    def begin(self) -> None:
        """Begin a forward of the model."""
        self._num_forwards += 1
        self._began, self._turn = self._now(), self._first
        self._store.set(f"forward/{self._rank}", str(self._num_forwards))

    def take(self, what: str) -> None:
        """Take the next turn of this forward: gather something.

        Args:
            what: begins with a verb, such as "calls layer".

        Raises:
            ConfigError: another rank does something else, or nothing.
        """
        known = self._turn.after.get(what)
        if known is None:
            if self._num_turns >= _MOST_TURNS:
                return
            self._agree(what)
            known = self._turn.after[what] = _Turn()
            self._num_turns += 1
        self._turn = known

    def _agree(self, what: str) -> None:
        self._num_agreed += 1
        number = self._num_agreed
        self._store.set(f"{number}/{self._rank}", what)
        # One number for all: ranks by the hundred would ask for each other's words too often.
        key, everyone = f"{number}:{what}", len(self._others) + 1
        count = self._store.add(key, 1)
        asked, poll_s = self._now(), 0.0005
        patience = max(AT_LEAST_S, TIMES_AS_LONG * (asked - self._began))
        while count < everyone:
            waited = self._now() - asked
            if waited > _LOOK_AFTER_S:
                self._refuse_unlike(number, what, waited, patience)
            self._sleep(poll_s)
            poll_s = min(2 * poll_s, _LONGEST_POLL_S)
            count = self._store.add(key, 0)
        if number > 1:
            self._store.delete_key(f"{number - 1}/{self._rank}")  # all are past it

    def _refuse_unlike(self, number: int, what: str, waited: float, patience: float) -> None:
        late = [one for one in self._others if not self._has_said_the_same(one, number, what)]
        here = [one for one in late if self._is_in_this_forward(one)]
        if late and ((here and waited > patience) or waited > AT_MOST_S):
            former = " or ".join(self._turn.after)
            where = f", where it {former} in those before" if former else ""
            raise ConfigError(
                f"rank {self._rank} {what} in the model's forward{where}, and rank "
                f"{(here or late)[0]} has not done so within {waited:.0f} s. {REMEDY}"
            )

    def _has_said_the_same(self, other: int, number: int, what: str) -> bool:
        key = f"{number}/{other}"
        if not self._store.check([key]):
            return False
        said = self._store.get(key).decode()
        if said != what:
            raise ConfigError(
                f"rank {self._rank} {what} in the model's forward, and rank {other} {said}. "
                f"{REMEDY}"
            )
        return True

    def _is_in_this_forward(self, other: int) -> bool:
        key = f"forward/{other}"
        return self._store.check([key]) and int(self._store.get(key)) >= self._num_forwards


def agreed_gathers(ranks: Ranks) -> AgreedGathers:
    """Return what agrees with the other ranks. Called on every rank."""
    # What an earlier start has left in the same store is not this one's.
    token = HostCommunicator(ranks).broadcast(uuid.uuid4().hex)
    return AgreedGathers(store_of_ranks(f"relaunch-gathers/{token}"), ranks.rank, ranks.world_size)


def agree_on_gathers(model: nn.Module, agreed: AgreedGathers) -> None:
    """Have a model's forwards agree on what they gather, from now on.

    Args:
        model: as DeepSpeed's engine calls it.
        agreed: of this rank.
    """
    _Watch(model, agreed)


class _Watch:
    def __init__(self, root: nn.Module, agreed: AgreedGathers) -> None:
        self._agreed, self._is_forward = agreed, False
        names: Mapping[int, str] = {id(p): name for name, p in root.named_parameters()}
        for name, module in root.named_modules():
            own = [p for p in module._parameters.values() if p is not None]
            if own:
                module.register_forward_pre_hook(self._calls(name, own), prepend=True)
        root.register_forward_pre_hook(self._begin, prepend=True)  # before its own turn
        root.register_forward_hook(self._end, always_call=True)
        for parameter in root.parameters():
            self._follow_reads(parameter, names[id(parameter)])

    def _begin(self, *_: Any) -> None:
        self._is_forward = True
        self._agreed.begin()

    def _end(self, *_: Any) -> None:
        self._is_forward = False

    def _calls(self, name: str, own: Sequence[Any]) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            # Whether it is gathered now depends on what DeepSpeed has fetched ahead.
            if self._is_forward and not all(p.ds_persist for p in own):
                self._agreed.take(f"calls {name or 'the model'}")

        return hook

    def _follow_reads(self, parameter: Any, name: str) -> None:
        gather = parameter.all_gather

        def all_gather(*args: Any, **kwargs: Any) -> Any:
            # Without arguments it is what a forward that reads the parameter ends in.
            if self._is_forward and not args and not kwargs and not is_gathered(parameter):
                layer = name.rpartition(".")[0] or "the model"
                self._agreed.take(f"reads {name} without a call of {layer}")
            return gather(*args, **kwargs)

        parameter.all_gather = all_gather
