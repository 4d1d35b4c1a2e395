"""Which unit a step's gradients are rounded to."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.parallel.gradients.units import ROOM_BITS, UNKNOWN, exponents_of, is_exact, unit_of


def test_exponents_are_above_the_magnitudes() -> None:
    assert exponents_of([1.0, 0.99, 0.5, 3.0], [None] * 4) == [1, 0, 0, 2]


@pytest.mark.parametrize("seen", [0.0, -1.0, math.inf, math.nan])
def test_where_nothing_was_seen_the_former_stays(seen: float) -> None:
    assert exponents_of([seen, 1.0], [7, 9]) == [7, 1]
    assert exponents_of([seen], [None]) == [None]


def test_an_unknown_gradient_has_a_unit_that_depends_on_no_other() -> None:
    assert unit_of(None, 8) == unit_of(UNKNOWN, 8)


@given(st.integers(-140, 120), st.integers(1, 4096), st.integers(0, ROOM_BITS))
def test_gradients_may_grow_by_the_room_that_there_is(e: int, count: int, growth: int) -> None:
    unit = unit_of(e, count)
    largest = 2.0 ** (e + growth)
    assert is_exact(unit, largest, count)
    # In units, a sum of so many is a whole number that float64 holds.
    assert Fraction(largest) / Fraction(2) ** unit * count <= 2**53
    assert not is_exact(unit, 2.0 ** (e + ROOM_BITS + 2), count)


def test_a_step_that_is_dropped_anyway_needs_no_unit() -> None:
    assert is_exact(unit_of(0, 4), math.inf, 4)


def test_the_unit_is_finer_than_what_fp32_resolves_in_the_largest() -> None:
    assert unit_of(0, 64) <= -24 - 7
