"""How gradients that every rank holds whole are laid out to be summed by owners. Pure.

A block is some parameters of one dtype, one after the other; its totals are one tensor. It is
summed in buckets, of each of which a rank owns a share: as many elements on every rank, so the last
bucket of a block may have a few more than the parameters do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import torch


class Stretch:
    """Elements [begin, end) of a block."""

    def __init__(self, begin: int, end: int, cuts: Sequence[tuple[int, int, int]]) -> None:
        """Take the cuts: (number of the parameter, its first element, that behind its last)."""
        self.begin, self.end, self._cuts = begin, end, cuts
        self.numbers = [number for number, _, _ in cuts]
        ends = [*accumulate(end - start for _, start, end in cuts)]
        self._places = [*zip([0, *ends], ends, strict=False)]

    def __len__(self) -> int:
        return self.end - self.begin

    def of(self, flat: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return these elements of flat tensors, of which there is one for each parameter."""
        return [flat[number][start:end] for number, start, end in self._cuts]

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Return a flat tensor of these elements cut by parameter, without what lies behind."""
        return [flat[begin:end] for begin, end in self._places]

    def fill(self, room: torch.Tensor, flat: Sequence[torch.Tensor]) -> None:
        """Copy these elements of flat tensors, see `of`, into a flat one."""
        if self.numbers:  # else it lies behind all parameters
            torch._foreach_copy_(self.views(room), self.of(flat))

    def subtract(self, room: torch.Tensor, numbers: list[float]) -> None:
        """Subtract from a flat tensor of these elements a number of each parameter's."""
        if self.numbers:
            torch._foreach_sub_(self.views(room), numbers)


class Block:
    """Parameters that are summed into one tensor."""

    def __init__(
        self, numbers: Sequence[int], parameters: Sequence[torch.Tensor], ranks: int
    ) -> None:
        """Take parameters of one dtype, with their numbers."""
        self.numbers = list(numbers)
        self.dtype = parameters[0].dtype
        self._bounds = [0, *accumulate(parameter.numel() for parameter in parameters)]
        self._ranks = ranks
        self.size = -(-self._bounds[-1] // ranks) * ranks
        """Of its tensor."""

    def parameters(self) -> Iterator[tuple[int, int, int]]:
        """Yield (number, begin, end) of each parameter in the tensor."""
        for number, (begin, end) in zip(self.numbers, pairwise(self._bounds), strict=True):
            yield number, begin, end

    def buckets(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield the bounds of buckets of at most so many elements, or one for each rank."""
        step = max(most // self._ranks, 1) * self._ranks
        for begin in range(0, self.size, step):
            yield begin, min(begin + step, self.size)

    def share(self, begin: int, end: int, rank: int) -> tuple[int, int]:
        """Return the bounds of what a rank owns of a bucket."""
        length = (end - begin) // self._ranks
        return begin + rank * length, begin + (rank + 1) * length

    def stretch(self, begin: int, end: int) -> Stretch:
        """Return elements [begin, end), by parameter."""
        cuts = [
            (number, max(begin - low, 0), min(end, high) - low)
            for number, low, high in self.parameters()
            if max(begin, low) < min(end, high)
        ]
        return Stretch(begin, end, cuts)

    def stretches(self, begin: int, end: int, most: int) -> list[Stretch]:
        """Return elements [begin, end) in stretches of at most so many."""
        return [self.stretch(at, min(at + most, end)) for at in range(begin, end, most)]


def blocks_of(parameters: Sequence[torch.Tensor], ranks: int, most: int) -> list[Block]:
    """Return the blocks of parameters: of one dtype, each small or one parameter."""
    blocks: list[Block] = []
    numbers: list[int] = []

    def close() -> None:
        if numbers:
            blocks.append(Block(numbers, [parameters[number] for number in numbers], ranks))
            numbers.clear()

    filled = 0
    for number, parameter in enumerate(parameters):
        is_other = bool(numbers) and parameter.dtype != parameters[numbers[0]].dtype
        if is_other or filled + parameter.numel() > most:
            close()
            filled = 0
        numbers.append(number)
        filled += parameter.numel()
    close()
    return blocks
