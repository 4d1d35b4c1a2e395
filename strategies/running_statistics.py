"""BatchNorm's running statistics, the same on every rank and any number of ranks.

torch moves them with every forward: r <- (1 - m) r + m s, where s are the statistics of the
micro-batch. Ranks see different micro-batches, so each rank would have statistics of its own. The
recursion is linear, and over the n micro-batches of a step

    r <- (1 - m)^n r + sum_i (1 - m)^(n - 1 - i) m s_i        (i: canonical number)

is what one rank that sees them all in order computes. Each rank adds up its own terms, and one sum
over the ranks completes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .moving_buffers import MovingBuffers
from .process_group import Ranks
from .recomputation import hold_statistics_in_recomputation

_OF_ALL_RANKS = (
    "the model has SyncBatchNorm, which normalises with what all ranks compute at once: the curve "
    "follows their number. With BatchNorm, GroupNorm or LayerNorm it does not"
)


@dataclass
class _Tracked:
    """One BatchNorm module between two steps."""

    module: _BatchNorm
    before: list[torch.Tensor]
    """Mean and variance as they were when the step began, float64, on the host."""
    terms: list[torch.Tensor]
    """This rank's part of the sum above."""
    batches: int

    @property
    def momentum(self) -> float | None:
        return self.module.momentum

    @property
    def live(self) -> list[torch.Tensor]:
        mean, var = self.module.running_mean, self.module.running_var
        assert mean is not None
        assert var is not None
        return [mean, var]


class RunningStatistics:
    """Follows the BatchNorm modules of a model through the micro-batches of a step."""

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._ranks = ranks
        self._modules = [
            module
            for module in model.modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        ]
        follows = any(isinstance(module, nn.SyncBatchNorm) for module in self._modules)
        self.notes = [_OF_ALL_RANKS] if follows else []
        """Sentences about modules whose results follow the number of ranks."""
        for module in self._modules:
            hold_statistics_in_recomputation(module)
        self._tracked: list[_Tracked] = []
        self._others = MovingBuffers(model)

    def begin_step(self) -> None:
        """Remember where the statistics are."""
        self._others.begin_step()
        self._tracked = [_track(module) for module in self._modules]

    def begin_micro_batch(self) -> None:
        """Clear the live statistics, so that the forward leaves m s in them."""
        for tracked in self._tracked:
            for live in tracked.live:
                live.zero_()
            if tracked.module.num_batches_tracked is not None:
                # With momentum=None torch averages: the first of all batches then counts whole.
                tracked.module.num_batches_tracked.zero_()

    def end_micro_batch(self, index: int, count: int, *, is_padding: bool) -> None:
        """Add what the forward left.

        Args:
            index: canonical number of the micro-batch in the step.
            count: micro-batches of the step, over all ranks.
            is_padding: it was a repeat, which some rank has counted already.
        """
        if is_padding:
            return
        for tracked in self._tracked:
            momentum = tracked.momentum
            weight = 1.0 if momentum is None else (1.0 - momentum) ** (count - 1 - index)
            for term, live in zip(tracked.terms, tracked.live, strict=True):
                term += weight * live.double().cpu()

    def end_step(self, count: int) -> None:
        """Sum over the ranks and put the new statistics in place. Called on every rank."""
        self._others.end_step()
        if not self._tracked:
            return
        parts = [term for tracked in self._tracked for term in tracked.terms]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat, group=self._ranks.host_group)
        summed = iter(torch.split(flat, [part.numel() for part in parts]))
        for tracked in self._tracked:
            momentum, batches = tracked.momentum, tracked.batches + count
            for before, live in zip(tracked.before, tracked.live, strict=True):
                terms = next(summed).view_as(before)
                if momentum is None:
                    after = (before * tracked.batches + terms) / batches
                else:
                    after = before * (1.0 - momentum) ** count + terms
                live.copy_(after)
            if tracked.module.num_batches_tracked is not None:
                tracked.module.num_batches_tracked.fill_(batches)
        self._tracked = []

    def give_up(self) -> None:
        """Put everything back to where it was when the step began. No collective."""
        self._others.give_up()
        for tracked in self._tracked:
            for before, live in zip(tracked.before, tracked.live, strict=True):
                live.copy_(before)
            if tracked.module.num_batches_tracked is not None:
                tracked.module.num_batches_tracked.fill_(tracked.batches)
        self._tracked = []


def _track(module: _BatchNorm) -> _Tracked:
    assert module.running_mean is not None
    assert module.running_var is not None
    before = [t.detach().double().cpu() for t in (module.running_mean, module.running_var)]
    batches = module.num_batches_tracked
    return _Tracked(
        module=module,
        before=before,
        terms=[torch.zeros_like(t) for t in before],
        batches=0 if batches is None else int(batches),
    )
