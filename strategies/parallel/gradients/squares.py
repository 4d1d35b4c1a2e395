"""The sum of squares of all gradients, the same bits however they are spread over the ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

from ...collectives.late_number import LateNumbers
from ...collectives.order_free import EXACT_BITS, shift_of
from ...collectives.process_group import Ranks
from .grad_norm import Meanwhile
from .step_units import largest_of, largest_of_each

Exponent = TypeVar("Exponent", int, torch.Tensor)
_CHUNK = 1 << 16
"""Elements that are squared at a time, so that a CPU finds them in its cache."""
_ON_DEVICE = 1 << 24
"""The same on an accelerator, where a launch costs more than memory does."""
_TWO_PARTS_SUFFICE = 1 << 24
"""Elements beyond which a third part is summed, so that what is dropped stays below 2**-38."""
_BIAS = 1023
"""Of the exponent in the bits of a float64 number."""


def largest_magnitude(grads: Sequence[torch.Tensor], ranks: Ranks, *, is_spread: bool) -> float:
    """Return the largest magnitude of any element; inf where one is not finite. On every rank.

    Args:
        grads: this rank's.
        ranks: that hold them.
        is_spread: whether each rank holds others; False: all hold the same.
    """
    found = [largest_of(grad).double() for grad in grads if grad.numel()]
    own = torch.stack(found).max() if found else torch.zeros((), dtype=torch.float64)
    largest = torch.nan_to_num(own, nan=math.inf, posinf=math.inf).cpu()
    if not is_spread or ranks.world_size == 1:
        return float(largest)
    if ranks.neighbours is not None:
        told = [0.0] * ranks.world_size
        told[ranks.rank] = float(largest)
        return max(ranks.neighbours.start(told).wait())
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=ranks.host_group)
    return float(largest)


def sum_of_squares(
    parts: Iterable[torch.Tensor], largest: float, ranks: Ranks, *, count: int
) -> float:
    """Return the sum of squares over all elements of all ranks. Called on every rank.

    Args:
        parts: this rank's share on the host, flat; each element is in one rank's.
        largest: magnitude of any element of any rank, the same on every rank.
        ranks: that hold them.
        count: elements of all ranks; the same however they are spread.
    """
    if not math.isfinite(largest) or largest == 0.0:
        return largest
    shifts = [shift_of(unit) for unit in units_of(largest, count)]
    sums = [torch.zeros(len(shifts), dtype=torch.float64)]
    for part in parts:
        for chunk in torch.split(part, _CHUNK):
            sums.append(torch.stack(_sums_of(chunk.double().square_(), shifts)))
    found: list[float] = torch.stack(sums).sum(0).tolist()
    if ranks.world_size > 1:
        found = list(ranks.channel.start(found).wait())
    return math.fsum(found)


def sum_of_squares_on_device(
    parts: Sequence[torch.Tensor], ranks: Ranks, *, count: int, meanwhile: Meanwhile = None
) -> float:
    """Return the same bits; the host waits once. Called on every rank.

    The unit follows from the largest magnitude, which the host learns with the sum.

    Args:
        parts: this rank's share on the ranks' device, flat; each element is in one rank's.
        ranks: that hold them.
        count: elements of all ranks.
        meanwhile: see `Meanwhile`.
    """
    held = [part for part in parts if part.numel()]
    nothing = torch.zeros(0, device=ranks.device)
    own = largest_of_each([*held, nothing], ranks.device).double().max()
    largest = torch.nan_to_num(own, nan=math.inf, posinf=math.inf)
    if ranks.world_size > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    shifts = [_shift_on_device(unit) for unit in _units(torch.frexp(largest).exponent, count)]
    sums = [largest.new_zeros(len(shifts))]
    for chunk in _chunks_on_device(held):
        sums.append(torch.stack(_sums_of(chunk.double().square_(), shifts)))
    late = LateNumbers(torch.cat([largest.reshape(1), torch.stack(sums).sum(0)]))
    if meanwhile is not None:
        meanwhile()
    found_largest, *found = late.read()
    if not math.isfinite(found_largest) or found_largest == 0.0:
        return float(found_largest)
    if ranks.world_size > 1:
        found = list(ranks.channel.start(found).wait())
    return math.fsum(found)


def _chunks_on_device(parts: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the elements of flat tensors, small ones together."""
    gathered: list[torch.Tensor] = []
    filled = 0
    for part in parts:
        for piece in torch.split(part, _ON_DEVICE):
            if gathered and filled + len(piece) > _ON_DEVICE:
                yield torch.cat(gathered)
                gathered, filled = [], 0
            gathered.append(piece)
            filled += len(piece)
    if gathered:
        yield torch.cat(gathered)


def _sums_of(
    rest: torch.Tensor, shifts: Sequence[float] | Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Return the sums of parts that are multiples of a unit each; `rest` is used up.

    Args:
        rest: float64.
        shifts: see `shift_of`, of each unit.
    """
    sums = []
    for shift in shifts[:-1]:
        part = (rest + shift).sub_(shift)
        sums.append(part.sum())
        rest.sub_(part)
    return [*sums, rest.add_(shifts[-1]).sub_(shifts[-1]).sum()]


def units_of(largest: float, count: int) -> tuple[int, ...]:
    """Return the exponents of the units of the parts whose sums are exact each; pure.

    Args:
        largest: magnitude of any element, above 0 and finite.
        count: of all elements.
    """
    return _units(math.frexp(largest)[1], count)


def _units(exponent: Exponent, count: int) -> tuple[Exponent, ...]:
    """Return the same by the exponent of the largest magnitude, as `frexp` gives it."""
    bits = math.ceil(math.log2(max(count, 1))) + 1
    highest = 2 * exponent + (bits - EXACT_BITS + 1)
    step = EXACT_BITS - 1 - bits
    return tuple(highest - step * n for n in range(2 if count <= _TWO_PARTS_SUFFICE else 3))


def _shift_on_device(unit: torch.Tensor) -> torch.Tensor:
    """Return `shift_of` the unit with this exponent, a 0-dim integer, put together from bits."""
    power: torch.Tensor = (unit.long() + (EXACT_BITS - 1 + _BIAS)) << (EXACT_BITS - 1)
    return power.view(torch.float64) * 1.5
