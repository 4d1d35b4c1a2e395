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
# Exact sums are the same by any algorithm, too: so numbers are sent to the rank that owns them, and
# that one adds them, rounds the total and sends it around (reduction.py).
#
# What this costs in accuracy: with 64 micro-batches the unit is 2**-31 of the largest gradient of
# the parameter in the step before, 128 times finer than fp32 resolves that gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from ...collectives.order_free import shift_of
from ...collectives.process_group import Ranks
from .blocks import blocks_of
from .reduction import bucket_elements_of, reduction_of
from .step_units import StepUnits
from .terms import MOST_HELD, HeldTerms, SummedTerms, Terms


class GradientSums:
    """The sums of one step after the other.

    Beside the gradients of a micro-batch they take at most 8 bytes for each trainable element, and
    what is sent and received of one bucket.
    """

    def __init__(
        self,
        named: Sequence[tuple[str, torch.nn.Parameter]],
        ranks: Ranks,
        *,
        bucket_elements: int | None = None,
    ) -> None:
        """Take the trainable parameters, whole on every rank.

        Args:
            named: the parameters, the same on every rank.
            ranks: all of the run.
            bucket_elements: that are summed over the ranks at a time; None: as suits the device.

        Raises:
            ConfigError: one has a dtype whose sums would not be exact.
        """
        self._units = StepUnits(named, ranks)
        self._parameters = [parameter for _, parameter in named]
        self._ranks = ranks
        most = bucket_elements or bucket_elements_of(ranks.device)
        self._blocks = blocks_of(self._parameters, ranks.world_size, most)
        self._reduction = reduction_of(self._blocks, ranks, most)
        self._held = HeldTerms(self._parameters)
        self._summed: SummedTerms | None = None
        self._terms: Terms = self._held
        self._shifts: list[float] = []

    @property
    def exponents(self) -> dict[str, int]:
        """By name, what is known of each parameter's gradients; the same on every rank."""
        return self._units.exponents

    def begin(self, exponents: Mapping[str, int], count: int) -> None:
        """Begin a step; see `StepUnits.begin`."""
        self._units.begin(exponents, count)
        self._terms.forget()
        self._shifts = []
        # As many on every rank: one that comes short repeats a micro-batch with weight zero.
        turns = math.ceil(count / self._ranks.world_size)
        if turns > MOST_HELD and self._summed is None:
            self._summed = SummedTerms(self._blocks, self._ranks.device)
        # Once there is memory for running sums, gradients are not held beside it.
        self._terms = self._summed or self._held

    def add(self) -> None:
        """Take the gradients of a micro-batch. Called on every rank, once a micro-batch."""
        if not self._parameters:
            return
        grads = [parameter.grad for parameter in self._parameters]
        units = self._units.look(range(len(grads)), grads)
        self._shifts = [shift_of(unit) for unit in units]
        self._terms.take(
            [None if grad is None else grad.detach().reshape(-1) for grad in grads], self._shifts
        )
        for parameter in self._parameters:
            parameter.grad = None

    def reduce(self) -> list[str]:
        """Sum over the ranks, and leave the totals in `.grad`. Called on every rank.

        Returns:
            The parameters whose sums may depend on the order after all.
        """
        if not self._parameters:
            return []
        assert self._shifts, "a step without a micro-batch"
        self._units.ask()
        wholes = [
            torch.empty(block.size, dtype=block.dtype, device=self._ranks.device)
            for block in self._blocks
        ]
        self._reduction.reduce(self._terms, self._shifts, wholes)
        self._terms.forget()
        is_touched, inexact = self._units.agree()
        for block, whole in zip(self._blocks, wholes, strict=True):
            for number, begin, end in block.parameters():
                if is_touched[number]:
                    parameter = self._parameters[number]
                    parameter.grad = whole[begin:end].view_as(parameter)
        return inexact
