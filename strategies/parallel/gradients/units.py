"""The unit to which each parameter's gradients are rounded before they are summed. Pure.

It has to be known before the first gradient of a step is there, and must be the same on any number
of ranks. So it follows from the largest gradient of the step before, which all ranks know and every
checkpoint has. Gradients may grow by `ROOM_BITS` from one step to the next; what exceeds this is
noticed, after the step, from the largest gradient of that step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...collectives.order_free import EXACT_BITS

ROOM_BITS = 14
"""By how many powers of two a gradient may grow from step to step."""
UNKNOWN = 0
"""Exponent of a gradient of which nothing is known: below 1."""
_LEAST = -1000
"""Below it 2**(52 + unit) is no normal float64 number."""


def exponents_of(largest: Sequence[float], former: Sequence[int | None]) -> list[int | None]:
    """Return for each parameter the least e with magnitudes below 2**e; None: not known.

    Args:
        largest: magnitude of any gradient of each parameter in a step; 0 or less: there was none.
        former: what is kept where there was none, or one that is not finite.
    """
    return [
        math.frexp(one)[1] if 0 < one < math.inf else before
        for one, before in zip(largest, former, strict=True)
    ]


def unit_of(exponent: int | None, count: int) -> int:
    """Return the exponent of the unit of a step.

    Args:
        exponent: see `exponents_of`.
        count: micro-batches of the step, over all ranks.
    """
    spare = ROOM_BITS + math.ceil(math.log2(count)) + 2 - EXACT_BITS
    return max((UNKNOWN if exponent is None else exponent) + spare, _LEAST)


def is_exact(unit: int, largest: float, count: int) -> bool:
    """Return whether every sum of `count` gradients is exact.

    Args:
        unit: see `unit_of`.
        largest: magnitude of any element of any of them; not finite: the step is dropped.
        count: micro-batches of the step, over all ranks.
    """
    return not math.isfinite(largest) or largest * count <= 2.0 ** (EXACT_BITS - 2 + unit)
