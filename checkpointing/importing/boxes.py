"""A tensor in boxes, as several ranks have written it: put together, and proved to be all of it."""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from ..errors import DamagedCheckpointError


class Box(Protocol):
    """A part of a tensor."""

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where it begins, in each dimension."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """How far it goes."""


def require_cover(path: Path, name: str, shape: tuple[int, ...], boxes: Iterable[Box]) -> None:
    """Refuse boxes that are not a whole tensor, each element once.

    Args:
        path: Where it is said which boxes there are.
        name: Of the tensor, for messages.
        shape: Of the whole tensor.
        boxes: In any order.

    Raises:
        DamagedCheckpointError: If they are not.
    """
    boxes = list(boxes)
    for box in boxes:
        is_inside = len(box.offsets) == len(box.sizes) == len(shape) and all(
            o >= 0 and n >= 0 and o + n <= dim
            for o, n, dim in zip(box.offsets, box.sizes, shape, strict=True)
        )
        if not is_inside:
            raise DamagedCheckpointError(path, f"{name}: a chunk lies outside of the tensor")
    filled = [box for box in boxes if math.prod(box.sizes)]
    if any(_overlap(one, other) for one, other in itertools.combinations(filled, 2)):
        raise DamagedCheckpointError(path, f"{name}: two of its chunks overlap")
    covered, numel = sum(math.prod(box.sizes) for box in filled), math.prod(shape)
    if covered != numel:
        raise DamagedCheckpointError(path, f"{name}: its chunks have {covered} elements of {numel}")


def whole_of(
    shape: tuple[int, ...], dtype: torch.dtype, parts: Iterable[tuple[Box, torch.Tensor]]
) -> torch.Tensor:
    """Return the tensor that boxes with their values make up, as [numel]."""
    whole = torch.empty(shape, dtype=dtype)
    for box, values in parts:
        whole[slices(box)] = values.view(box.sizes)
    return whole.reshape(-1)


def slices(box: Box) -> tuple[slice, ...]:
    """Return where a box is in its tensor."""
    return tuple(slice(o, o + n) for o, n in zip(box.offsets, box.sizes, strict=True))


def extent(boxes: Sequence[Box]) -> tuple[int, ...]:
    """Return the shape of the smallest tensor that has all of the boxes; they agree in dimensions.

    Raises:
        ValueError: They do not.
    """
    ends = [tuple(o + n for o, n in zip(b.offsets, b.sizes, strict=True)) for b in boxes]
    return tuple(map(max, zip(*ends, strict=True)))


def _overlap(one: Box, other: Box) -> bool:
    return all(
        max(a, b) < min(a + n, b + m)
        for a, n, b, m in zip(one.offsets, one.sizes, other.offsets, other.sizes, strict=True)
    )
