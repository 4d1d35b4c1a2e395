"""Running statistics of BatchNorm and InstanceNorm, the same on any number of ranks.

torch moves them with every forward: r <- (1 - m) r + m s, where s are the statistics of the
micro-batch. Ranks see different micro-batches, so each rank would have statistics of its own. The
recursion is linear, and over the n micro-batches of a step

    r <- (1 - m)^n r + sum_i (1 - m)^(n - 1 - i) m s_i        (i: canonical number)

is what one rank that sees them all in order computes. Each rank adds up its own terms, and one sum
over the ranks completes them. Where a module is used u times in a micro-batch, (1 - m)^u stands in
place of (1 - m), and what the forward leaves in place of m s. A module in evaluation mode (frozen
statistics) is left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeGuard

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ..collectives.process_group import Ranks
from .buffer_watch import BufferWatch
from .moving_buffers import MovingBuffers
from .power_iterations import PowerIterations
from .recomputation import hold_buffers_in_recomputation

_OF_ALL_RANKS = (
    "the model has SyncBatchNorm, which normalises with what all ranks compute at once: the curve "
    "follows their number. With BatchNorm, GroupNorm or LayerNorm it does not"
)


@dataclass
class _Tracked:
    """One module between two steps."""

    module: _NormBase
    before: list[torch.Tensor]
    """Mean and variance as they were when the step began, float64, on the host."""
    terms: list[torch.Tensor]
    """This rank's part of the sum above."""
    batches: int
    moves: bool
    """Whether it is in training mode in this step."""
    uses: int = 1
    """How often a micro-batch uses it, once one has."""

    @property
    def averages(self) -> bool:
        """Whether all batches since the beginning count alike."""
        return self.module.momentum is None and isinstance(self.module, _BatchNorm)

    def kept(self, micro_batches: int) -> float:
        """Return what so many micro-batches leave of what was there before them."""
        return (1.0 - (self.module.momentum or 0.0)) ** (self.uses * micro_batches)

    @property
    def live(self) -> list[torch.Tensor]:
        mean, var = self.module.running_mean, self.module.running_var
        assert mean is not None
        assert var is not None
        return [mean, var]

    @property
    def counter(self) -> torch.Tensor | None:
        """What counts the batches; InstanceNorm has one that stays at zero."""
        return self.module.num_batches_tracked if isinstance(self.module, _BatchNorm) else None

    def put_back(self) -> None:
        """Put the statistics to where they were when the step began."""
        for before, live in zip(self.before, self.live, strict=True):
            live.copy_(before)
        if self.counter is not None:
            self.counter.fill_(self.batches)


class RunningStatistics:
    """Follows what a model's forward moves through the micro-batches of a step."""

    def __init__(self, model: nn.Module, ranks: Ranks, names: Collection[str] = ()) -> None:
        """Take the model that is trained.

        Args:
            model: what the training loop calls; wrappers may stand around the user's.
            ranks: that compute together.
            names: of the user's persistent buffers that are watched in the first steps.
        """
        self._ranks = ranks
        self._modules = [module for module in model.modules() if _is_tracking(module)]
        follows = any(isinstance(module, nn.SyncBatchNorm) for module in self._modules)
        self.notes = [_OF_ALL_RANKS] if follows else []
        """Sentences about modules whose results follow the number of ranks."""
        for module in model.modules():
            hold_buffers_in_recomputation(module)
        self._tracked: list[_Tracked] = []
        self._vectors = PowerIterations(model, ranks.world_size)
        self._others = MovingBuffers(model)
        self._watch = BufferWatch(model, ranks, names, is_ordered=self._vectors.owns)

    def begin_step(self, count: int) -> None:
        """Remember where everything is; `count` micro-batches follow, over all ranks."""
        self._watch.begin_step()
        self._others.begin_step()
        self._vectors.begin_step(count)
        self._tracked = [_track(module) for module in self._modules]

    def begin_micro_batch(self, index: int, *, is_padding: bool) -> None:
        """Clear the live statistics, so that the forward leaves m s in them.

        Args:
            index: canonical number of the micro-batch in the step.
            is_padding: it is a repeat, which some rank has counted already.
        """
        self._vectors.begin_micro_batch(index, is_padding=is_padding)
        for tracked in self._moving():
            for live in tracked.live:
                live.zero_()
            if tracked.counter is not None:
                # With momentum=None torch averages: the first of all batches then counts whole.
                tracked.counter.zero_()

    def end_micro_batch(self, index: int, count: int, *, is_padding: bool) -> None:
        """Add what the forward left.

        Args:
            index: canonical number of the micro-batch in the step.
            count: micro-batches of the step, over all ranks.
            is_padding: it was a repeat, which some rank has counted already.
        """
        self._watch.end_micro_batch()
        self._vectors.end_micro_batch()
        for tracked in self._moving():
            if tracked.counter is not None:
                tracked.uses = int(tracked.counter)
            if is_padding:
                continue
            later = count - 1 - index
            weight = float(tracked.uses) if tracked.averages else tracked.kept(later)
            for term, live in zip(tracked.terms, tracked.live, strict=True):
                term += weight * live.double().cpu()

    def end_step(self, count: int) -> list[str]:
        """Sum over the ranks and put what has moved in place. Called on every rank.

        Returns:
            Sentences about buffers that follow the number of ranks, the same on every rank; the
            caller tells them.
        """
        self._vectors.end_step()
        self._others.end_step()
        self._end_statistics(count)
        found = self._watch.end_step()
        self._others.learn(found.moved)
        return found.sentences

    def _end_statistics(self, count: int) -> None:
        if not self._tracked:
            return
        parts = [term for tracked in self._tracked for term in tracked.terms]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat, group=self._ranks.host_group)
        summed = iter(torch.split(flat, [part.numel() for part in parts]))
        for tracked in self._tracked:
            batches = tracked.batches + tracked.uses * count
            for before, live in zip(tracked.before, tracked.live, strict=True):
                terms = next(summed).view_as(before)
                if not tracked.moves:
                    continue
                if tracked.averages:
                    after = (before * tracked.batches + terms) / max(1, batches)
                else:
                    after = before * tracked.kept(count) + terms
                live.copy_(after)
            if tracked.moves and tracked.counter is not None:
                tracked.counter.fill_(batches)
        self._tracked = []

    def give_up(self) -> None:
        """Put everything back to where it was when the step began. No collective."""
        self._vectors.give_up()
        self._others.give_up()
        for tracked in self._moving():
            tracked.put_back()
        self._tracked = []

    def _moving(self) -> Iterator[_Tracked]:
        return (tracked for tracked in self._tracked if tracked.moves)


def _is_tracking(module: nn.Module) -> TypeGuard[_NormBase]:
    return isinstance(module, _NormBase) and module.running_mean is not None


def _track(module: _NormBase) -> _Tracked:
    assert module.running_mean is not None
    assert module.running_var is not None
    before = [t.detach().double().cpu() for t in (module.running_mean, module.running_var)]
    batches = module.num_batches_tracked
    return _Tracked(
        module=module,
        before=before,
        terms=[torch.zeros_like(t) for t in before],
        batches=0 if batches is None else int(batches),
        moves=module.training,
    )
