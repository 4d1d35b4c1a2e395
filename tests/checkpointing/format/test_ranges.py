import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpointing.format.ranges import Piece, Range, find_cover_problem, overlaps, stripe


@pytest.mark.parametrize(
    ("ranges", "problem"),
    [
        ([(0, 10)], None),
        ([(4, 10), (0, 4)], None),
        ([], "things [0, 10) are not covered"),
        ([(0, 9)], "things [9, 10) are not covered"),
        ([(1, 10)], "things [0, 1) are not covered"),
        ([(0, 3), (5, 10)], "things [3, 5) are not covered"),
        ([(0, 6), (5, 10)], "things [5, 6) are covered twice"),
        ([(0, 10), (0, 10)], "things [0, 10) are covered twice"),
        ([(0, 10), (2, 4)], "things [2, 4) are covered twice"),
        ([(0, 11)], "things [0, 11) are not a range within [0, 10)"),
        ([(-1, 10)], "things [-1, 10) are not a range within [0, 10)"),
        ([(0, 10), (3, 3)], "things [3, 3) are not a range within [0, 10)"),
        ([(0, 5), (8, 5), (5, 10)], "things [8, 5) are not a range within [0, 10)"),
    ],
)
def test_cover_problem_names_the_place(ranges, problem):
    assert find_cover_problem(ranges, Range(0, 10), "things") == problem


def test_an_empty_whole_is_covered_by_nothing_only():
    assert find_cover_problem([], Range(0, 0), "elements") is None
    assert find_cover_problem([(0, 1)], Range(0, 0), "elements") is not None


@given(st.lists(st.tuples(st.integers(-1, 13), st.integers(-1, 13)), max_size=6))
@settings(max_examples=300, deadline=None)
def test_cover_problem_agrees_with_counting(ranges):
    counts = np.zeros(12, dtype=int)
    is_valid = all(0 <= start < end <= 12 for start, end in ranges)
    if is_valid:
        for start, end in ranges:
            counts[start:end] += 1
    is_exact = is_valid and bool((counts == 1).all())
    assert (find_cover_problem(ranges, Range(0, 12), "elements") is None) == is_exact


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.data())
@settings(max_examples=200, deadline=None)
def test_overlaps_agree_with_numpy(lengths, data):
    starts = [int(sum(lengths[:i])) for i in range(len(lengths))]
    total = sum(lengths)
    start = data.draw(st.integers(0, total))
    end = data.draw(st.integers(start, total))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    pieces = overlaps(starts, Range(start, end))
    found = [(i, position) for i, low, high in pieces for position in range(low, high)]
    assert found == [(int(owner[p]), p) for p in range(start, end)]
    assert len({piece.tensor for piece in pieces}) == len(pieces)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from([1, 2, 4, 8])), max_size=8),
    st.integers(1, 7),
)
@settings(max_examples=300, deadline=None)
def test_stripes_cover_once_and_are_balanced(tensors, world_size):
    sizes = [numel * itemsize for numel, itemsize in tensors]
    items = [itemsize for _, itemsize in tensors]
    counts = [np.zeros(numel, dtype=int) for numel, _ in tensors]
    shares = []
    for rank in range(world_size):
        pieces = stripe(sizes, rank, world_size, itemsizes_bytes=items)
        assert all(piece.start < piece.end for piece in pieces)
        for index, start, end in pieces:
            counts[index][start:end] += 1
        shares.append(sum((end - start) * items[index] for index, start, end in pieces))
    assert all((count == 1).all() for count in counts)
    assert all(abs(share - sum(sizes) / world_size) <= 8 for share in shares)


def test_stripe_splits_no_more_tensors_than_there_are_cuts():
    assert stripe([40, 40], 0, 2, itemsizes_bytes=[4, 4]) == [Piece(0, 0, 10)]
    assert stripe([40, 40], 1, 2, itemsizes_bytes=[4, 4]) == [Piece(1, 0, 10)]


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_stripe_refuses_a_rank_outside_the_world(rank, world_size):
    with pytest.raises(ValueError, match=f"rank={rank}"):
        stripe([4], rank, world_size, itemsizes_bytes=[4])


def test_stripe_refuses_unequal_lists():
    with pytest.raises(ValueError, match="2 sizes, but 1"):
        stripe([4, 4], 0, 1, itemsizes_bytes=[4])
