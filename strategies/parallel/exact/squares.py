"""The sum of squares of all gradients, the same bits however they are spread over the ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist

from ...collectives.process_group import Ranks
from ...order_free import EXACT_BITS, rounded

_CHUNK = 1 << 18
"""Elements that are squared at a time."""
_TWO_PARTS_SUFFICE = 1 << 24
"""Elements beyond which a third part is summed, so that what is dropped stays below 2**-38."""


def sum_of_squares(
    grads: Sequence[torch.Tensor], ranks: Ranks, *, count: int, is_spread: bool
) -> float:
    """Return the sum of squares over all elements of all ranks. Called on every rank.

    Args:
        grads: this rank's, any shapes and dtypes; each element counts as often as it is held.
        ranks: that hold them.
        count: elements over all ranks, as often as they are held; the same on every rank.
        is_spread: whether each rank holds others; False: all hold the same.
    """
    largest = _largest(grads, ranks, is_spread=is_spread)
    if not math.isfinite(largest) or largest == 0.0:
        return largest
    units = units_of(largest, count)
    sums = torch.zeros(len(units), dtype=torch.float64, device=ranks.device)
    for chunk in _chunks(grads):
        rest = chunk.double().square()
        for number, unit in enumerate(units):
            part = rounded(rest, unit)
            sums[number] += part.sum()
            rest -= part
    found: list[float] = sums.tolist()
    if is_spread and ranks.world_size > 1:
        found = list(ranks.channel.start(found).wait())
    return math.fsum(found)


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


def _largest(grads: Sequence[torch.Tensor], ranks: Ranks, *, is_spread: bool) -> float:
    norms = [torch.linalg.vector_norm(g, math.inf).double() for g in grads if g.numel()]
    own = torch.stack(norms).max() if norms else torch.zeros((), dtype=torch.float64)
    largest = torch.nan_to_num(own, nan=math.inf, posinf=math.inf).cpu()
    if is_spread and ranks.world_size > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=ranks.host_group)
    return float(largest)


def _chunks(grads: Sequence[torch.Tensor]) -> Iterable[torch.Tensor]:
    for grad in grads:
        yield from torch.split(grad.reshape(-1), _CHUNK)
