"""Which rank steps which parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def work_of(shape: Sequence[int]) -> int:
    """Return how much a step of a parameter costs, in products of two numbers.

    What looks at a matrix as a whole multiplies it by itself: elements times the smaller side.
    Further dimensions are taken as columns.
    """
    numel = math.prod(shape)
    if len(shape) < 2 or not numel:
        return numel
    return numel * min(shape[0], numel // shape[0])


def assign(shapes: Mapping[str, Sequence[int]], num_ranks: int) -> dict[str, int]:
    """Return the owner of each parameter: work, and then elements, in equal shares. Pure.

    The largest goes first, to the rank that has least; the same on every rank.

    Args:
        shapes: by name, in the model's order.
        num_ranks: among which they are shared.
    """
    loads = [(0, 0, rank) for rank in range(num_ranks)]
    owners: dict[str, int] = {}
    for name in sorted(shapes, key=lambda one: -work_of(shapes[one])):
        work, elements, rank = min(loads)
        owners[name] = rank
        loads[rank] = (work + work_of(shapes[name]), elements + math.prod(shapes[name]), rank)
    return {name: owners[name] for name in shapes}
