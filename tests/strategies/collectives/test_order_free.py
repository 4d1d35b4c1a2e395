"""Sums that are the same in any order."""

import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.collectives.order_free import (
    AWAY,
    in_parts,
    joined_parts,
    round_away_,
    rounded,
    shift_of,
    sums_by_index,
)

NUMBERS = st.lists(
    st.floats(-(2.0**30), 2.0**30, width=32, allow_subnormal=True), min_size=1, max_size=40
)


def f64(numbers: list[float]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@given(NUMBERS, st.integers(-60, 0))
def test_a_rounded_number_is_the_nearest_multiple(numbers: list[float], exponent: int) -> None:
    unit = 2.0**exponent
    kept = [n for n in numbers if abs(n) < 2.0 ** (51 + exponent)]
    for number, found in zip(kept, rounded(f64(kept), exponent).tolist(), strict=True):
        assert found / unit == round(number / unit)  # both round ties to even


@given(NUMBERS, st.integers(-60, 0), st.integers(-1000, 1000))
def test_what_is_added_to_a_shifted_sum_is_rounded_whatever_that_is(
    numbers: list[float], exponent: int, before: int
) -> None:
    """Also in the middle between two multiples, where the sum itself must not decide."""
    unit = Fraction(2) ** exponent
    halves = [float(unit / 2 * n) for n in (1, 3, 5, -1, -7)]
    for number in (n for n in (*halves, *numbers) if abs(n) < 2.0 ** (50 + exponent)):
        nearest = math.floor(abs(Fraction(number)) / unit + Fraction(1, 2))
        wanted = math.copysign(nearest, number)
        alone = f64([number])
        round_away_(alone, exponent)
        assert float(alone) / float(unit) == wanted
        for start in (before, before + 1):
            begin = shift_of(exponent) + float(start * unit)
            total = f64([begin]).add_(f64([number]), alpha=AWAY)
            assert Fraction(float(total)) - Fraction(begin) == int(wanted) * unit


@given(NUMBERS, st.randoms(use_true_random=False))
def test_parts_have_the_same_sum_in_any_order(numbers: list[float], chance: random.Random) -> None:
    def total(order: list[float]) -> list[float]:
        parts = torch.zeros(2, 1, dtype=torch.float64)
        for number in order:
            parts += in_parts(f64([number]))
        return [*parts.flatten().tolist(), *joined_parts(parts).tolist()]

    shuffled = numbers[:]
    chance.shuffle(shuffled)
    assert total(numbers) == total(shuffled)
    assert total(numbers)[-1] == pytest.approx(math.fsum(numbers), rel=1e-15, abs=2.0**-54)


@settings(max_examples=30)
@given(st.sampled_from([math.inf, -math.inf, math.nan]), NUMBERS)
def test_what_is_not_finite_stays_so(odd: float, numbers: list[float]) -> None:
    total = joined_parts(in_parts(f64([*numbers, odd])).sum(1, keepdim=True))
    assert not torch.isfinite(total).any()
    assert not torch.isfinite(rounded(f64([odd]), -20)).any()


def test_a_plain_sum_does_depend_on_the_order() -> None:
    """What all this is for."""
    numbers = [1.0, 1e-16, 1e-16, 1e-16, 1e-16]
    assert sum(numbers) != sum(reversed(numbers))


def test_sums_by_index_do_not_depend_on_the_order() -> None:
    """An accelerator adds by atomic operations, in the order in which its threads come."""
    generator = torch.Generator().manual_seed(5)
    indices = torch.randint(0, 7, (3000,), generator=generator)
    numbers = torch.rand(3000, generator=generator, dtype=torch.float64)
    found = sums_by_index(indices, numbers, 9)
    for _ in range(5):
        order = torch.randperm(3000, generator=generator)
        assert torch.equal(sums_by_index(indices[order], numbers[order], 9), found)
    exact = [math.fsum(numbers[indices == index].tolist()) for index in range(9)]
    assert found.tolist() == pytest.approx(exact, rel=1e-15)
