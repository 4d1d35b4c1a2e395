"""Half-open ranges [start, end): coverage, overlap, and the fair division of replicated tensors.

Pure, and without torch. A range counts elements of a flattened tensor, or bytes of a file.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple


class Range(NamedTuple):
    """The positions start, start + 1, ..., end - 1."""

    start: int
    end: int


class Piece(NamedTuple):
    """The elements [start, end) of the tensor (or range) at a position of a list."""

    tensor: int
    start: int
    end: int


def find_cover_problem(ranges: Iterable[tuple[int, int]], whole: Range, unit: str) -> str | None:
    """Return what is wrong if the ranges do not cover a whole exactly once, else None.

    Args:
        ranges: In any order.
        whole: What is to be covered; may be empty, and then no range may exist.
        unit: What a position counts, such as "elements".
    """
    reached = whole.start
    for start, end in sorted(ranges):
        if not whole.start <= start < end <= whole.end:
            return f"{unit} [{start}, {end}) are not a range within [{whole.start}, {whole.end})"
        if start > reached:
            return f"{unit} [{reached}, {start}) are not covered"
        if start < reached:
            return f"{unit} [{start}, {min(end, reached)}) are covered twice"
        reached = end
    if reached < whole.end:
        return f"{unit} [{reached}, {whole.end}) are not covered"
    return None


def overlaps(starts: Sequence[int], wanted: Range) -> list[Piece]:
    """Cut a wanted range along the ranges that it crosses.

    Args:
        starts: Where each range starts, ascending; the ranges tile [0, n), so each one ends
            where the next one starts.
        wanted: Within [0, n).

    Returns:
        For every range touched its index and the part of `wanted` in it, in positions of [0, n).
    """
    if wanted.start >= wanted.end:
        return []
    pieces = []
    index = bisect_right(starts, wanted.start) - 1
    start = wanted.start
    while start < wanted.end:
        is_last = index + 1 == len(starts)
        end = wanted.end if is_last else min(wanted.end, starts[index + 1])
        pieces.append(Piece(index, start, end))
        start, index = end, index + 1
    return pieces


def stripe(
    sizes_bytes: Sequence[int], rank: int, world_size: int, *, itemsizes_bytes: Sequence[int]
) -> list[Piece]:
    """Return this rank's share of tensors that every rank holds whole.

    The tensors are laid end to end and the line is cut into `world_size` parts that are equal
    to within one element, so few tensors are split and no rank writes more than its share.

    Args:
        sizes_bytes: The size of each tensor.
        rank: In [0, world_size).
        world_size: At least 1.
        itemsizes_bytes: The size of one element of each tensor.

    Returns:
        Non-empty pieces in elements. Over all ranks they cover every element exactly once.

    Raises:
        ValueError: If rank and world_size, or the two sequences, do not fit together.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} is not in [0, world_size={world_size}).")
    if len(sizes_bytes) != len(itemsizes_bytes):
        raise ValueError(f"{len(sizes_bytes)} sizes, but {len(itemsizes_bytes)} item sizes.")
    total = sum(sizes_bytes)
    cut_from, cut_to = total * rank // world_size, total * (rank + 1) // world_size
    offsets = accumulate(sizes_bytes, initial=0)
    pieces = []
    for index, (offset, size, itemsize) in enumerate(
        zip(offsets, sizes_bytes, itemsizes_bytes, strict=False)
    ):
        # A cut inside an element moves to its end, on both sides of the cut alike.
        start = -(min(0, offset - cut_from) // itemsize)
        end = -(min(0, offset - cut_to) // itemsize)
        piece = Piece(index, min(start, size // itemsize), min(end, size // itemsize))
        if piece.start < piece.end:
            pieces.append(piece)
    return pieces
