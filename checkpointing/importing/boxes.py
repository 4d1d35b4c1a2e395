"""A tensor in boxes, as several ranks have written it: put together, and proved to be all of it."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from ..errors import DamagedCheckpointError

_MAX_CUT = 8
"""A box has two to this power corners. Meshes of devices have two dimensions, or three."""


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
        path: The file that lists the boxes.
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
    covered, numel = sum(math.prod(box.sizes) for box in boxes), math.prod(shape)
    if covered < numel:
        raise DamagedCheckpointError(path, f"{name}: its chunks have {covered} elements of {numel}")
    if covered > numel or not _is_partition(path, name, shape, boxes):
        raise DamagedCheckpointError(path, f"{name}: two of its chunks overlap")


def _is_partition(path: Path, name: str, shape: tuple[int, ...], boxes: Sequence[Box]) -> bool:
    """Return whether boxes inside a tensor hold each of its elements once, in linear time.

    How often each element is held is known from its differences along every dimension in turn: of
    a box these are +1 or -1 at each of its corners, and 0 elsewhere. The sums over the boxes must
    be those of the whole tensor. Dimensions in which nothing is cut need no corners.
    """
    filled = [box for box in boxes if math.prod(box.sizes)]
    cut = [d for d, dim in enumerate(shape) if any(box.sizes[d] != dim for box in filled)]
    if len(cut) > _MAX_CUT:
        raise DamagedCheckpointError(path, f"{name}: its chunks are cut in {len(cut)} dimensions")
    signs = [math.prod(one) for one in itertools.product((1, -1), repeat=len(cut))]
    corners: dict[tuple[int, ...], int] = defaultdict(int)
    for box in filled:
        ends = [(box.offsets[d], box.offsets[d] + box.sizes[d]) for d in cut]
        for sign, corner in zip(signs, itertools.product(*ends), strict=True):
            corners[corner] += sign
    if math.prod(shape):
        whole = itertools.product(*((0, shape[d]) for d in cut))
        for sign, corner in zip(signs, whole, strict=True):
            corners[corner] -= sign
    return not any(corners.values())


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
