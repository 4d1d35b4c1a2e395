"""Owners by work."""

import pytest

from strategies.parallel.matrix.assignment import assign, work_of


@pytest.mark.parametrize(
    ("shape", "work"),
    [((), 1), ((7,), 7), ((4, 6), 96), ((6, 4), 96), ((8, 3, 2, 2), 8 * 12 * 8), ((0, 5), 0)],
)
def test_work_is_elements_times_the_smaller_side(shape: tuple[int, ...], work: int) -> None:
    assert work_of(shape) == work


@pytest.mark.parametrize(
    ("shapes", "num_ranks", "owners"),
    [
        ({}, 3, {}),
        ({"a": (4, 4)}, 3, {"a": 0}),
        ({"a": (2, 2), "b": (8, 8), "c": (2, 2)}, 2, {"a": 1, "b": 0, "c": 1}),
        ({"a": (4, 4), "b": (4, 4), "c": (4, 4), "d": (4, 4)}, 2, {"a": 0, "b": 1, "c": 0, "d": 1}),
        # Equal work: who holds fewer elements is next.
        ({"a": (2, 32), "b": (1, 128), "c": (1, 1)}, 2, {"a": 0, "b": 1, "c": 0}),
        ({"a": (0, 4), "b": (3,)}, 2, {"a": 1, "b": 0}),
    ],
)
def test_the_largest_go_first(
    shapes: dict[str, tuple[int, ...]], num_ranks: int, owners: dict[str, int]
) -> None:
    assert assign(shapes, num_ranks) == owners
    assert list(assign(shapes, num_ranks)) == list(shapes)


def test_no_rank_has_more_than_a_matrix_above_the_least() -> None:
    shapes = {f"{n}": (16 * (1 + n % 5), 16 * (1 + n % 3)) for n in range(40)}
    owners = assign(shapes, 4)
    loads = [sum(work_of(s) for n, s in shapes.items() if owners[n] == r) for r in range(4)]
    assert max(loads) - min(loads) <= max(map(work_of, shapes.values()))
