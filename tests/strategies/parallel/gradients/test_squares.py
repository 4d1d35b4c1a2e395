"""The sum of squares, however the elements are spread."""

import math
from fractions import Fraction
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies import Ranks
from strategies.parallel.gradients import squares as squares_module
from strategies.parallel.gradients.grad_norm import own_part
from strategies.parallel.gradients.squares import (
    largest_magnitude,
    sum_of_squares,
    sum_of_squares_on_device,
    units_of,
)

from .thread_ranks import as_ranks

RANKS = cast(Ranks, SimpleNamespace(world_size=1, device=torch.device("cpu")))


def squares(*grads: torch.Tensor) -> float:
    count = sum(grad.numel() for grad in grads)
    largest = largest_magnitude(grads, RANKS, is_spread=False)
    return sum_of_squares(grads, largest, RANKS, count=count)


def on_device(*grads: torch.Tensor) -> float:
    """What is found where the host learns the largest magnitude with the sum."""
    count = sum(grad.numel() for grad in grads)
    return sum_of_squares_on_device(grads, RANKS, count=count)


@given(st.integers(1, 2000), st.integers(0, 2**31), st.data())
def test_any_order_and_any_cut_gives_the_same_bits(
    size: int, seed: int, data: st.DataObject
) -> None:
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(size, generator=generator) * torch.exp(
        4 * torch.randn(size, generator=generator)
    )
    shuffled = whole[torch.randperm(size, generator=generator)]
    cut = data.draw(st.integers(0, size))
    assert squares(whole) == squares(shuffled) == squares(shuffled[cut:], shuffled[:cut])
    assert squares(whole) == on_device(shuffled[cut:], shuffled[:cut])
    assert squares(whole) == pytest.approx(math.fsum(x * x for x in whole.tolist()), rel=1e-12)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("odd", [None, math.inf, math.nan])
def test_neighbours_that_look_at_a_part_each_find_the_same_bits(
    world_size: int, odd: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    if odd is not None:
        whole[700] = odd

    def rank_main(ranks: Ranks) -> tuple[float, float]:
        part = [own_part(whole, ranks.rank, ranks.world_size)]
        largest = largest_magnitude(part, ranks, is_spread=True)
        return largest, sum_of_squares(part, largest, ranks, count=1000)

    largest = largest_magnitude([whole], RANKS, is_spread=False)
    found = as_ranks(monkeypatch, world_size, rank_main, share_memory=True)
    assert found == [(largest, squares(whole))] * world_size


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("odd", [None, math.inf, math.nan])
def test_ranks_on_devices_find_the_same_bits(
    world_size: int, odd: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    if odd is not None:
        whole[700] = odd

    def rank_main(ranks: Ranks) -> tuple[float, int]:
        part = own_part(whole, ranks.rank, ranks.world_size)
        done: list[int] = []
        found = sum_of_squares_on_device(
            [part[:100], part[100:]], ranks, count=1000, meanwhile=lambda: done.append(1)
        )
        return found, len(done)

    found = as_ranks(monkeypatch, world_size, rank_main, share_memory=True)
    assert found == [(squares(whole), 1)] * world_size


@pytest.mark.parametrize("magnitude", [2.0**-149, 1e-38, 1.0, 3e38])
def test_the_unit_on_a_device_is_that_of_the_host(magnitude: float) -> None:
    for size in (1, 3, 1000):
        numbers = magnitude * torch.linspace(0.1, 1.0, size).flip(0)
        assert squares(numbers) == on_device(numbers)


def test_small_parts_are_squared_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squares_module, "_ON_DEVICE", 100)
    whole = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    parts = torch.split(whole, [30, 60, 20, 250, 0, 1, 639])
    assert on_device(*parts) == squares(*parts)


def test_parts_of_it_are_exact() -> None:
    """Each rank's sums are whole numbers of units, below 2**53: they can be added in any way."""
    for count in (1, 1000, 10**6, 10**9):
        for largest in (1e-30, 0.7, 1e30):
            first, *others = units_of(largest, count)
            assert Fraction(largest) ** 2 * count / Fraction(2) ** first <= 2**53
            for before, unit in zip((first, *others), others, strict=False):
                # What is left is at most half a unit of the part before.
                assert Fraction(2) ** (before - 1) * count / Fraction(2) ** unit <= 2**53


@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_makes_the_sum_so(odd: float) -> None:
    assert not math.isfinite(squares(torch.tensor([1.0, odd])))
    assert not math.isfinite(on_device(torch.tensor([1.0, odd])))


def test_nothing_and_zeros() -> None:
    assert squares(torch.zeros(3), torch.zeros(0)) == 0.0
    assert on_device(torch.zeros(3), torch.zeros(0)) == on_device() == 0.0
