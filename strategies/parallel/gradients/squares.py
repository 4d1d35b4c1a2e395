"""The sum of squares of all gradients, the same bits however they are spread over the ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist

from ...collectives.order_free import EXACT_BITS, shift_of
from ...collectives.process_group import Ranks
from .step_units import largest_of

_CHUNK = 1 << 16
"""Elements that are squared at a time, so that a CPU finds them in its cache."""
_ON_DEVICE = 1 << 24
"""The same on an accelerator, where a launch costs more than memory does."""
_TWO_PARTS_SUFFICE = 1 << 24
"""Elements beyond which a third part is summed, so that what is dropped stays below 2**-38."""


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
        parts: this rank's share, flat; each element is in one rank's.
        largest: magnitude of any element of any rank, the same on every rank.
        ranks: that hold them.
        count: elements of all ranks; the same however they are spread.
    """
    if not math.isfinite(largest) or largest == 0.0:
        return largest
    units = units_of(largest, count)
    sums = [torch.zeros(len(units), dtype=torch.float64, device=ranks.device)]
    for part in parts:
        for chunk in torch.split(part, _CHUNK if part.is_cpu else _ON_DEVICE):
            sums.append(torch.stack(_sums_of(chunk.double().square_(), units)))
    found: list[float] = torch.stack(sums).sum(0).tolist()
    if ranks.world_size > 1:
        found = list(ranks.channel.start(found).wait())
    return math.fsum(found)


def _sums_of(rest: torch.Tensor, units: Sequence[int]) -> list[torch.Tensor]:
    """Return the sums of parts that are multiples of the units each; `rest` is used up."""
    sums = []
    for unit in units[:-1]:
        shift = shift_of(unit)
        part = (rest + shift).sub_(shift)
        sums.append(part.sum())
        rest.sub_(part)
    shift = shift_of(units[-1])
    return [*sums, rest.add_(shift).sub_(shift).sum()]


def units_of(largest: float, count: int) -> tuple[int, ...]:
    """Return the exponents of the units of the parts whose sums are exact each; pure.

    Args:
        largest: magnitude of any element, above 0 and finite.
        count: of all elements.
    """
    bits = math.ceil(math.log2(count)) + 1
    highest = 2 * math.frexp(largest)[1] + bits - EXACT_BITS + 1
    step = EXACT_BITS - 1 - bits
    return tuple(highest - step * n for n in range(2 if count <= _TWO_PARTS_SUFFICE else 3))
