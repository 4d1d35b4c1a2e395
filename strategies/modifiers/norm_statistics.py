"""The running statistics of all norms of a model through a step, as one vector on their device.

A model has hundreds of them: followed module by module, each costs launches, and a number that the
host reads makes it wait for all that the device was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ..collectives.order_free import in_parts, joined_parts
from ..collectives.process_group import Ranks


@dataclass(frozen=True, kw_only=True)
class _Constants:
    """What is the same as long as no module changes its mode or its momentum."""

    key: tuple[tuple[float | None, bool], ...]
    """(momentum, training) of each module."""
    moving: list[_NormBase]
    """In training mode."""
    counting: Sequence[_NormBase]
    """Of these, those that count batches; InstanceNorm has a counter that stays at zero."""
    places: torch.Tensor
    """Of `counting` among all modules."""
    left: torch.Tensor
    """What one use leaves of what was there before, (modules,), float64."""
    averages: torch.Tensor
    """Whether all batches since the beginning count alike, (modules,), bool."""
    moves: torch.Tensor
    """1.0 where a module moves, (modules,), float64."""


class NormStatistics:
    """Follows modules that have `running_mean`. One vector has mean and variance of each, in turn.

    Nothing here makes the host wait for the device.
    """

    def __init__(self, modules: Sequence[_NormBase], ranks: Ranks, *, exact: bool = False) -> None:
        """Take the modules; `exact`: the order of the ranks' sums must not matter."""
        self._modules, self._ranks, self._is_exact = list(modules), ranks, exact
        live = self._live(self._modules)
        self._device = live[0].device if live else torch.device("cpu")
        self._sizes = [len(tensor) for tensor in live]
        numbers = [n for n, _ in enumerate(self._modules) for _ in range(2)]
        index = torch.tensor(numbers, dtype=torch.int64).repeat_interleave(
            torch.tensor(self._sizes, dtype=torch.int64)
        )
        self._owner = index.to(self._device)
        """The module's number, by element."""
        self._constants: _Constants | None = None
        self._before: torch.Tensor | None = None
        """As they were when the step began, float64; None: no step is under way."""
        self.terms = torch.empty(0)
        """This rank's part of the sum over the micro-batches, float64; (2, n) where it is exact."""
        self._batches = self._uses = self.terms

    def begin_step(self) -> None:
        """Remember where everything is."""
        if not self._modules:
            return
        constants = self._constants = self._constants_now()
        self._before = self._gathered()
        self.terms = torch.zeros_like(self._before)
        if self._is_exact:
            self.terms = in_parts(self.terms)
        self._batches = torch.zeros_like(constants.left)
        if constants.counting:
            counted = torch.stack(_counters(constants.counting)).to(self._device).double()
            self._batches.index_copy_(0, constants.places, counted)
        self._uses = torch.ones_like(constants.left)

    def begin_micro_batch(self) -> None:
        """Clear the live statistics, so that the forward leaves m s in them."""
        if self._before is None:
            return
        constants = self._held
        _zero(self._live(constants.moving))
        # With momentum=None torch averages: the first of all batches then counts whole.
        _zero(_counters(constants.counting))

    def end_micro_batch(self, later: int, *, is_padding: bool) -> None:
        """Add what the forward left.

        Args:
            later: micro-batches that come after it, in their canonical order.
            is_padding: it was a repeat, which some rank has counted already.
        """
        if self._before is None:
            return
        constants = self._held
        if constants.counting:
            uses = torch.stack(_counters(constants.counting)).to(self._device).double()
            self._uses.index_copy_(0, constants.places, uses)
        if is_padding:
            return
        kept = constants.left ** (self._uses * later)
        weight = torch.where(constants.averages, self._uses, kept) * constants.moves
        term = weight[self._owner] * self._gathered()
        self.terms += in_parts(term) if self._is_exact else term

    def end_step(self, count: int) -> None:
        """Sum over the ranks and put what has moved in place. Called on every rank.

        Args:
            count: micro-batches of the step, over all ranks.
        """
        if self._before is None:
            return
        constants, owner = self._held, self._owner
        if self._ranks.world_size > 1:
            on_host = self._device.type == "cpu"
            dist.all_reduce(self.terms, group=self._ranks.host_group if on_host else None)
        terms = joined_parts(self.terms) if self._is_exact else self.terms
        batches = self._batches + self._uses * count
        kept = (constants.left ** (self._uses * count))[owner]
        mean = (self._before * self._batches[owner] + terms) / batches.clamp(min=1)[owner]
        after = torch.where(constants.averages[owner], mean, self._before * kept + terms)
        self._put(after, batches)

    def give_up(self) -> None:
        """Put everything back to where it was when the step began. No collective."""
        if self._before is not None:
            self._put(self._before, self._batches)

    def _put(self, values: torch.Tensor, batches: torch.Tensor) -> None:
        constants, self._before = self._held, None
        split = torch.split(values, self._sizes)
        parts = dict(zip(self._places(self._modules), split, strict=True))
        live = self._live(constants.moving)
        if live:
            torch._foreach_copy_(live, [parts[place] for place in self._places(constants.moving)])
        if constants.counting:
            whole = batches[constants.places].long().unbind()
            torch._foreach_copy_(_counters(constants.counting), list(whole))

    @property
    def _held(self) -> _Constants:
        assert self._constants is not None
        return self._constants

    def _gathered(self) -> torch.Tensor:
        live = [tensor.to(self._device) for tensor in self._live(self._modules)]
        return torch.cat(live).double()

    def _constants_now(self) -> _Constants:
        """Return them, made anew where a module has changed."""
        modules, former = self._modules, self._constants
        key = tuple((module.momentum, module.training) for module in modules)
        if former is not None and former.key == key:
            return former
        moving = [module for module in modules if module.training]
        counting = [m for m in moving if isinstance(m, _BatchNorm) and _counters([m])]
        places = [n for n, m in enumerate(modules) if any(m is one for one in counting)]
        averages = [m.momentum is None and isinstance(m, _BatchNorm) for m in modules]
        left = [1.0 - (m.momentum or 0.0) for m in modules]
        moves = [float(m.training) for m in modules]
        return _Constants(
            key=key,
            moving=moving,
            counting=counting,
            places=torch.tensor(places, dtype=torch.int64, device=self._device),
            left=torch.tensor(left, dtype=torch.float64, device=self._device),
            averages=torch.tensor(averages, device=self._device),
            moves=torch.tensor(moves, dtype=torch.float64, device=self._device),
        )

    @staticmethod
    def _live(modules: Sequence[_NormBase]) -> list[torch.Tensor]:
        found = [t for m in modules for t in (m.running_mean, m.running_var)]
        return [t for t in found if t is not None]

    @staticmethod
    def _places(modules: Sequence[_NormBase]) -> list[tuple[int, int]]:
        return [(id(module), which) for module in modules for which in range(2)]


def _counters(modules: Sequence[_NormBase]) -> list[torch.Tensor]:
    return [m.num_batches_tracked for m in modules if m.num_batches_tracked is not None]


def _zero(tensors: list[torch.Tensor]) -> None:
    if tensors:
        torch._foreach_zero_(tensors)
