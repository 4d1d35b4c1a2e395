"""Sums of float64 numbers that do not depend on their order.

A number is rounded to multiples of a power of two, its unit. Sums of such numbers are exact as long
as they stay below 2**53 units, and exact sums are the same in any order and in any grouping: over
micro-batches, over ranks, inside a collective. The technique is pre-rounding, as in Demmel and
Nguyen, "Parallel Reproducible Summation" (2015), with units that are known before the numbers are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

CHUNK_ELEMENTS = 1 << 15
"""Elements that a CPU converts at a time, so that they are still in its cache when it adds them."""
EXACT_BITS = 53
"""Bits of a float64 significand."""
AWAY = 1.0 + 2.0**-52
"""Numbers of at most 24 bits are multiplied by it before they are rounded: what lies in the middle
between two multiples then goes away from zero, whatever it is added to. By one or two units in the
last place, whether or not the product is rounded: too little to change any other result."""
_COARSE, _FINE = -12, -60
"""Exponents of the units of `in_parts`: totals below 2**40 are exact, down to 2**-60."""
LOSS_UNIT = -24
"""Exponent of the unit of a step's loss: totals below 2**29 are exact."""


def in_chunks(*flat: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield parts of flat tensors of one length, as a CPU has them in its cache; elsewhere all."""
    if not flat[0].is_cpu:
        yield flat
        return
    yield from zip(*(torch.split(one, CHUNK_ELEMENTS) for one in flat), strict=True)


def add_converted_(
    total: torch.Tensor, numbers: torch.Tensor, scratch: torch.Tensor, *, alpha: float = 1.0
) -> None:
    """Add numbers of another dtype to a flat total, times alpha. On the host.

    Args:
        total: float64.
        numbers: as many.
        scratch: float64, for a chunk. `add_` alone would convert them elsewhere than in the cache.
        alpha: see `AWAY`.
    """
    for part, piece in in_chunks(total, numbers):
        part.add_(scratch[: len(piece)].copy_(piece), alpha=alpha)


def rounded(numbers: torch.Tensor, exponent: int) -> torch.Tensor:
    """Return multiples of 2**exponent, the nearest ones, ties to even.

    Args:
        numbers: float64; below 2**(51 + exponent) in magnitude. What is not finite stays so.
        exponent: of the unit.
    """
    shift = shift_of(exponent)
    return (numbers + shift).sub_(shift)


def round_away_(numbers: torch.Tensor, exponent: int) -> None:
    """Round numbers of at most 24 bits in place, ties away from zero.

    Args:
        numbers: float64; below 2**(51 + exponent) in magnitude. What is not finite stays so.
        exponent: of the unit.
    """
    shift = shift_of(exponent)
    numbers.mul_(AWAY).add_(shift).sub_(shift)


def shift_of(exponent: int) -> float:
    """Return a multiple of 2**exponent around which two neighbouring float64 numbers are one such
    unit apart: what is added to it is rounded, as long as the sum stays within a factor of 4 / 3.
    """
    return 1.5 * 2.0 ** (EXACT_BITS - 1 + exponent)


def in_parts(numbers: torch.Tensor) -> torch.Tensor:
    """Return numbers as two parts, whose sums are exact each.

    Args:
        numbers: (n,), float64.

    Returns:
        (2, n): multiples of 2**-12, and of 2**-60 what is left. Less than that is dropped.
    """
    coarse = rounded(numbers, _COARSE)
    return torch.stack([coarse, rounded(numbers - coarse, _FINE)])


def sums_by_index(indices: torch.Tensor, numbers: torch.Tensor, count: int) -> torch.Tensor:
    """Return the sums (count,) of the numbers of each index; an accelerator adds in any order.

    Args:
        indices: (n,), below count.
        numbers: (n,), float64; see `in_parts`.
        count: of the sums.
    """
    sums = torch.zeros(2, count, dtype=torch.float64, device=indices.device)
    return joined_parts(sums.index_add_(1, indices, in_parts(numbers)))


def joined_parts(parts: torch.Tensor) -> torch.Tensor:
    """Return the totals (n,) of summed parts (2, n)."""
    total: torch.Tensor = parts[0] + parts[1]
    return total
