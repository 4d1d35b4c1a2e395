"""Steps in which some parameters are whole, each on the rank that owns it.

Between two steps a parameter is in shards, as its engine keeps it. For a step its gradient and its
weights go to the owner, where the user's own optimizer updates it and keeps its state, and the
weights come back. What the optimizer treats element by element stays cut, in plain tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import nn

from ...collectives.process_group import HostCommunicator, Ranks
from ...errors import ConfigError
from .assignment import assign
from .placeholder import placeholder


@dataclass(frozen=True, kw_only=True)
class Share:
    """What this rank has of one parameter's master."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    end: int
    """Elements [start, end) of the flattened parameter."""
    weight: Callable[[], torch.Tensor]
    """Returns these elements (float32), live, in the shape in which a cut parameter is stepped."""


class Held(NamedTuple):
    """What this rank's optimizer keeps state for."""

    name: str
    owner: nn.Parameter
    start: int
    end: int
    is_whole: bool


class Ring(NamedTuple):
    """The ranks among which a parameter is cut."""

    group: Any
    """None: the ranks of the run."""
    members: Sequence[int]
    """Their numbers in the run, in the order of the group."""
    own: int
    """This rank's place among them."""


class OwnedSteps:
    """The parameters of a run's optimizer. Its methods are called on every rank, but `held`."""

    def __init__(
        self,
        shares: Sequence[Share],
        whole: frozenset[str],
        ring: Ring,
        ranks: Ranks,
        *,
        device: torch.device,
    ) -> None:
        """Return which rank owns which parameter.

        Args:
            shares: of every trainable parameter, in the model's order; some may be empty.
            whole: names of those that are stepped whole.
            ring: among whom they are cut.
            ranks: all of the run.
            device: where the optimizer steps.
        """
        self._shares = {share.name: share for share in shares}
        self._whole = [share.name for share in shares if share.name in whole]
        self._ring, self._ranks, self._device = ring, ranks, device
        self._owners = assign({n: self._shares[n].shape for n in self._whole}, len(ring.members))
        own = {name: [self._shares[name].start, self._shares[name].end] for name in self._whole}
        everyone = cast(list[Any], HostCommunicator(ranks).all_gather(cast(Any, own)))
        self._ranges = [everyone[rank] for rank in ring.members]
        self.stand_ins = {share.name: self._stand_in(share) for share in shares}
        """By name, what the optimizer steps in place of each parameter."""
        self._trained: list[str] = []
        self._has_stepped = False

    def _stand_in(self, share: Share) -> nn.Parameter:
        if share.name in self._owners:
            return nn.Parameter(placeholder(share.shape, self._device))
        return nn.Parameter(share.weight())

    def _is_owned(self, name: str) -> bool:
        return self._owners.get(name) == self._ring.own

    def held(self) -> Iterator[Held]:
        """Yield what this rank steps. No collective."""
        for name, owner in self.stand_ins.items():
            share = self._shares[name]
            if self._is_owned(name):
                yield Held(name, owner, 0, owner.numel(), is_whole=True)
            elif name not in self._owners and share.start < share.end:
                yield Held(name, owner, share.start, share.end, is_whole=False)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Give the stand-ins their weights, within; for an optimizer that is made of them."""
        names = list(self._shares)
        self._collect(names, {})
        yield
        self.release()

    def forget_others(self, optimizer: torch.optim.Optimizer) -> None:
        """Drop state that an optimizer has made for what this rank does not step."""
        mine = {id(one.owner) for one in self.held()}
        for stand_in in self.stand_ins.values():
            if id(stand_in) not in mine:
                optimizer.state.pop(stand_in, None)

    def step(self, update: Callable[[], object], grads: Mapping[str, torch.Tensor]) -> None:
        """Update what has a gradient.

        Args:
            update: the optimizer's step.
            grads: this rank's shares of the gradients (float32), flat or of the share's shape; of
                the same parameters on every rank.

        Raises:
            ConfigError: the first update failed on another rank.
        """
        names = [name for name in self._shares if name in grads]
        self._collect(names, grads)
        self._trained = names
        if self._has_stepped:
            update()
        else:
            self._first(update)
        self._give_back(names)

    def _first(self, update: Callable[[], object]) -> None:
        """Update, and have all ranks leave where one fails, whatever parameters it owns."""
        problem: Exception | None = None
        try:
            update()
        except Exception as error:
            problem = error
        failure = None if problem is None else f"{type(problem).__name__}: {problem}"
        found = HostCommunicator(self._ranks).all_gather(failure)
        if problem is not None:
            raise problem
        for rank, said in enumerate(found):
            if said is not None:
                raise ConfigError(f"on rank {rank}, {said}")
        self._has_stepped = True

    def stepped(self) -> list[nn.Parameter]:
        """Return what the last `step` has updated on this rank, until `release`."""
        trained = set(self._trained)
        return [one.owner for one in self.held() if one.name in trained]

    def release(self) -> None:
        """Drop gradients, and the weights of what is whole. No collective."""
        self._trained = []
        for name, stand_in in self.stand_ins.items():
            stand_in.grad = None
            if name in self._owners:
                stand_in.data = placeholder(self._shares[name].shape, self._device)

    def _collect(self, names: Sequence[str], grads: Mapping[str, torch.Tensor]) -> None:
        """Bring together what is whole, at its owner: gradients where there are, and weights."""
        for name in names:
            share, stand_in = self._shares[name], self.stand_ins[name]
            if name not in self._owners:
                stand_in.data = share.weight()
                if share.start < share.end and name in grads:
                    stand_in.grad = grads[name].view(stand_in.shape)
        whole = [name for name in names if name in self._owners]
        parts = [(name, kind) for name in whole for kind in (0, 1) if kind == 0 or name in grads]

        def mine(name: str, kind: int) -> torch.Tensor:
            return (self._shares[name].weight() if kind == 0 else grads[name]).view(-1)

        found = self._exchange(
            [
                [mine(name, kind) for name, kind in parts if self._owners[name] == place]
                for place in range(len(self._ring.members))
            ],
            [
                [self._length(name, place) for name, _ in parts if self._is_owned(name)]
                for place in range(len(self._ring.members))
            ],
        )
        owned = [(name, kind) for name, kind in parts if self._is_owned(name)]
        for number, (name, kind) in enumerate(owned):
            whole_one = self._put_together(name, [pieces[number] for pieces in found])
            if kind == 0:
                self.stand_ins[name].data = whole_one
            else:
                self.stand_ins[name].grad = whole_one

    def _put_together(self, name: str, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        if len(pieces) == 1:
            return pieces[0].view(self._shares[name].shape)
        whole = torch.empty(self._shares[name].shape, device=self._device)
        for piece, ranges in zip(pieces, self._ranges, strict=True):
            start, end = ranges[name]
            whole.view(-1)[start:end].copy_(piece)
        return whole

    def _give_back(self, names: Sequence[str]) -> None:
        """Put the updated weights of what is whole into all shards."""
        whole = [name for name in names if name in self._owners]
        if len(self._ring.members) == 1:
            return  # stepped in place
        owned = [name for name in whole if self._is_owned(name)]
        flat = {name: self.stand_ins[name].detach().reshape(-1) for name in owned}
        found = self._exchange(
            [[flat[name][slice(*ranges[name])] for name in owned] for ranges in self._ranges],
            [
                [self._length(name, self._ring.own) for name in whole if self._owners[name] == one]
                for one in range(len(self._ring.members))
            ],
        )
        for place, pieces in enumerate(found):
            theirs = [name for name in whole if self._owners[name] == place]
            for name, piece in zip(theirs, pieces, strict=True):
                weight = self._shares[name].weight()
                weight.copy_(piece.view(weight.shape))

    def _length(self, name: str, place: int) -> int:
        start, end = self._ranges[place][name]
        return int(end - start)

    def _exchange(
        self, to_send: Sequence[Sequence[torch.Tensor]], lengths: Sequence[Sequence[int]]
    ) -> list[list[torch.Tensor]]:
        """Send flat tensors to each rank of the ring; return what each has sent, of these lengths.

        On one rank they are the tensors that were given. In one collective: the ranks have all to
        send and to take at the same time.
        """
        if len(self._ring.members) == 1:
            return [list(one) for one in to_send]
        sizes = [sum(tensor.numel() for tensor in one) for one in to_send]
        counts = [sum(one) for one in lengths]
        if not self._whole:
            return [[] for _ in to_send]
        flat = [tensor for one in to_send for tensor in one]
        sent = torch.cat(flat) if flat else torch.empty(0, device=self._device)
        sent = sent.to(self._ranks.device)
        taken = torch.empty(sum(counts), device=self._ranks.device)
        dist.all_to_all_single(taken, sent, counts, sizes, group=self._ring.group)
        taken = taken.to(self._device)
        return [
            list(torch.split(part, list(one)))
            for part, one in zip(torch.split(taken, counts), lengths, strict=True)
        ]
