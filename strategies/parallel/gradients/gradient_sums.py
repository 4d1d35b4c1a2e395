"""The gradients of a step, summed over micro-batches and ranks in float64, in any order the same.

# Note: why the order does not matter here
#
# A sum of floating-point numbers depends on its order only where an addition rounds. Each gradient
# is rounded to multiples of its parameter's unit *before* it is added (units.py says which), and
# the units are so coarse that no sum of a step's micro-batches needs more than 53 bits: then no
# addition rounds, neither on a rank nor inside a collective, whatever algorithm that uses. The one
# rounding left is that of the total to fp32.
#
# Rounding and adding are one operation here: a running sum begins at a large multiple of the unit
# (order_free.py), near which float64 numbers are one unit apart. An addition to it rounds what is
# added, and nothing else. It would round ties to even, that is by what the sum is so far; so what
# is added is made a trifle larger, and no number is a tie any more.
#
# What this costs in accuracy: with 64 micro-batches the unit is 2**-31 of the largest gradient of
# the parameter in the step before, 128 times finer than fp32 resolves that gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from ...collectives.order_free import AWAY, CHUNK_ELEMENTS, in_chunks, shift_of
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
        self._shifts: list[float] | None = None
        """Where each running sum has begun; None: no micro-batch has been added yet."""
        self._chunk = torch.empty(CHUNK_ELEMENTS, dtype=torch.float64)

    @property
    def exponents(self) -> dict[str, int]:
        """By name, what is known of each parameter's gradients; the same on every rank."""
        return self._units.exponents

    def begin(self, exponents: Mapping[str, int], count: int) -> None:
        """Begin a step; see `StepUnits.begin`."""
        self._units.begin(exponents, count)
        self._shifts = None

    def add(self) -> None:
        """Take the gradients of a micro-batch. Called on every rank, once a micro-batch."""
        if not self._parameters:
            return
        numbers = range(len(self._parameters))
        units = self._units.look(numbers, [p.grad for p in self._parameters])
        if self._shifts is None:
            self._shifts = [shift_of(unit) for unit in units]
            for total, shift in zip(self._sums, self._shifts, strict=True):
                total.fill_(shift)
        for parameter, total in zip(self._parameters, self._sums, strict=True):
            if parameter.grad is not None:
                self._add(total, parameter.grad.detach().reshape(-1))
                parameter.grad = None

    def _add(self, total: torch.Tensor, grad: torch.Tensor) -> None:
        if not grad.is_cpu:
            total.add_(grad, alpha=AWAY)
            return
        for part, piece in in_chunks(total, grad):
            part.add_(self._chunk[: len(piece)].copy_(piece), alpha=AWAY)

    def reduce(self) -> list[str]:
        """Sum over the ranks, and leave the totals in `.grad`. Called on every rank.

        Returns:
            The parameters whose sums may depend on the order after all.
        """
        if not self._parameters:
            return []
        assert self._shifts is not None, "a step without a micro-batch"
        torch._foreach_sub_(self._sums, self._shifts)
        if self._ranks.world_size > 1:
            dist.all_reduce(self._flat)
        is_touched, inexact = self._units.agree()
        for parameter, total, one in zip(self._parameters, self._sums, is_touched, strict=True):
            if one:
                parameter.grad = total.float().to(parameter.dtype).view_as(parameter)
        return inexact
