"""The gradients of a step, summed over micro-batches and ranks in float64, in any order the same.

# Note: why the order does not matter here
#
# A sum of floating-point numbers depends on its order only where an addition rounds. Each gradient
# is rounded to multiples of its parameter's unit *before* it is added (units.py says which), and
# the units are so coarse that no sum of a step's micro-batches needs more than 53 bits: then no
# addition rounds, neither on a rank nor inside a collective, whatever algorithm that uses. The one
# rounding left is that of the total to the parameter's own dtype.
#
# What this costs in accuracy: with 64 micro-batches the unit is 2**-31 of the largest gradient of
# the parameter in the step before, 128 times finer than fp32 resolves that gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from ...collectives.process_group import Ranks
from .step_units import StepUnits


class GradientSums:
    """The running sums of one step after the other: 8 bytes for each trainable element."""

    def __init__(self, named: Sequence[tuple[str, torch.nn.Parameter]], ranks: Ranks) -> None:
        """Take the trainable parameters, whole on every rank.

        Raises:
            ConfigError: one has a dtype whose sums would not be exact.
        """
        self._units = StepUnits(named, ranks)
        self._parameters = [parameter for _, parameter in named]
        self._ranks = ranks
        sizes = [parameter.numel() for parameter in self._parameters]
        self._flat = torch.zeros(sum(sizes), dtype=torch.float64, device=ranks.device)
        self._sums = torch.split(self._flat, sizes)

    @property
    def exponents(self) -> dict[str, int]:
        """By name, what is known of each parameter's gradients; the same on every rank."""
        return self._units.exponents

    def begin(self, exponents: Mapping[str, int], count: int) -> None:
        """Begin a step; see `StepUnits.begin`."""
        self._units.begin(exponents, count)
        self._flat.zero_()

    def add(self) -> None:
        """Take the gradients of a micro-batch. Called on every rank, once a micro-batch."""
        if not self._parameters:
            return
        numbers = range(len(self._parameters))
        grads = self._units.round(numbers, [p.grad for p in self._parameters])
        for parameter, total, grad in zip(self._parameters, self._sums, grads, strict=True):
            parameter.grad = None
            if grad is not None:
                total.add_(grad.reshape(-1))

    def reduce(self) -> list[str]:
        """Sum over the ranks, and leave the totals in `.grad`. Called on every rank.

        Returns:
            The parameters whose sums may depend on the order after all.
        """
        if self._ranks.world_size > 1 and self._parameters:
            dist.all_reduce(self._flat)
        is_touched, inexact = self._units.agree()
        for parameter, total, one in zip(self._parameters, self._sums, is_touched, strict=True):
            parameter.grad = total.to(parameter.dtype).view_as(parameter) if one else None
        return inexact
