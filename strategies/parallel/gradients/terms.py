"""What one rank adds to the totals of a step, in sums that are exact (gradient_sums.py says why).

The gradients of one or two micro-batches take no more room than their sum in float64, and each is
a number of at most 24 bits: so they are held as they are, sent as they are, and rounded where they
are added. Of more micro-batches the running sum is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from ...collectives.order_free import AWAY, add_converted_, in_chunks
from .blocks import Block, Stretch

MOST_HELD = 2
"""Micro-batches whose gradients together are no larger than a sum in float64."""
STRETCH_ELEMENTS = 1 << 16
"""Elements that a CPU sums at a time, so that each operation finds them in its cache."""


class Terms(Protocol):
    """The gradients of this rank's micro-batches of a step."""

    @property
    def rows(self) -> int:
        """Numbers for each element in a message."""

    def take(self, grads: list[torch.Tensor | None], shifts: Sequence[float]) -> None:
        """Take a micro-batch's gradients, flat, of each parameter; None: zeros."""

    def dtype_of(self, block: Block) -> torch.dtype:
        """Return the dtype of a message about a block."""

    def message(self, at: int, stretch: Stretch, room: torch.Tensor) -> torch.Tensor:
        """Return what another rank needs to know, (rows, elements), in `room` or in place.

        Args:
            at: number of the block.
            stretch: elements of it.
            room: to be filled.
        """

    def begin(self, total: torch.Tensor, at: int, stretch: Stretch, shifts: list[float]) -> None:
        """Leave these terms in `total`, float64, around the shift of each parameter."""

    def add(
        self, total: torch.Tensor, message: torch.Tensor, stretch: Stretch, shifts: list[float]
    ) -> None:
        """Add another rank's message to `total`; the message may be used up."""

    def forget(self) -> None:
        """Let go of what a step does not leave to the next."""


class HeldTerms:
    """Few micro-batches: their gradients."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self._parameters = parameters
        self._held: list[list[torch.Tensor]] = []
        self._scratch = torch.empty(STRETCH_ELEMENTS, dtype=torch.float64)

    @property
    def rows(self) -> int:
        """Numbers for each element: one of each micro-batch."""
        return len(self._held)

    def take(self, grads: list[torch.Tensor | None], shifts: Sequence[float]) -> None:
        """Take a micro-batch's gradients."""
        self._held.append(
            [
                torch.zeros((), dtype=of.dtype, device=of.device).expand(of.numel())
                if grad is None
                else grad
                for grad, of in zip(grads, self._parameters, strict=True)
            ]
        )

    def dtype_of(self, block: Block) -> torch.dtype:
        """Return that of the gradients."""
        return block.dtype

    def message(self, at: int, stretch: Stretch, room: torch.Tensor) -> torch.Tensor:
        """Return the gradients of each micro-batch."""
        for row, held in zip(room, self._held, strict=True):
            stretch.fill(row, held)
        return room

    def begin(self, total: torch.Tensor, at: int, stretch: Stretch, shifts: list[float]) -> None:
        """Add up over the micro-batches."""
        views = stretch.views(total)
        for view, shift in zip(views, shifts, strict=True):
            view.fill_(shift)
        for held in self._held:
            if not total.is_cpu:
                torch._foreach_add_(views, stretch.of(held), alpha=AWAY)
                continue
            scratch = self._scratch[: len(total)]
            stretch.fill(scratch, held)
            total.add_(scratch, alpha=AWAY)

    def add(
        self, total: torch.Tensor, message: torch.Tensor, stretch: Stretch, shifts: list[float]
    ) -> None:
        """Add the gradients of another rank's micro-batches. On the host."""
        scratch = self._scratch[: len(total)]
        for row in message:
            total.add_(scratch.copy_(row), alpha=AWAY)

    def forget(self) -> None:
        """Let go of the gradients."""
        self._held = []


class SummedTerms:
    """Many micro-batches: their running sums, 8 bytes for each element."""

    rows = 1

    def __init__(self, blocks: Sequence[Block], device: torch.device) -> None:
        sizes = [block.size for block in blocks]
        flat = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        self._sums = torch.split(flat, sizes)
        placed = [
            (number, total[begin:end])
            for block, total in zip(blocks, self._sums, strict=True)
            for number, begin, end in block.parameters()
        ]
        self._of_parameters = [total for _, total in sorted(placed, key=lambda pair: pair[0])]
        self._is_begun = False
        self._scratch = torch.empty(STRETCH_ELEMENTS, dtype=torch.float64)

    def take(self, grads: list[torch.Tensor | None], shifts: Sequence[float]) -> None:
        """Add a micro-batch's gradients; the first of a step begins the sums."""
        for total, grad, shift in zip(self._of_parameters, grads, shifts, strict=True):
            if self._is_begun:
                if grad is not None:
                    self._add(total, grad)
            elif grad is None:
                total.fill_(shift)
            else:
                for part, piece in in_chunks(total, grad):
                    part.copy_(piece).mul_(AWAY).add_(shift)
        self._is_begun = True

    def _add(self, total: torch.Tensor, grad: torch.Tensor) -> None:
        if grad.is_cpu:
            add_converted_(total, grad, self._scratch, alpha=AWAY)
        else:
            total.add_(grad, alpha=AWAY)

    def dtype_of(self, block: Block) -> torch.dtype:
        """Return float64."""
        return torch.float64

    def message(self, at: int, stretch: Stretch, room: torch.Tensor) -> torch.Tensor:
        """Return the sums, around their shifts; in place."""
        return self._sums[at][stretch.begin : stretch.end].view(1, -1)

    def begin(self, total: torch.Tensor, at: int, stretch: Stretch, shifts: list[float]) -> None:
        """Copy the sums."""
        total.copy_(self._sums[at][stretch.begin : stretch.end])

    def add(
        self, total: torch.Tensor, message: torch.Tensor, stretch: Stretch, shifts: list[float]
    ) -> None:
        """Add another rank's sums; a sum of two shifts would have no room for the smallest bits."""
        (row,) = message
        stretch.subtract(row, shifts)
        total.add_(row)

    def forget(self) -> None:
        """Begin again with the next micro-batch."""
        self._is_begun = False
