"""Sums of gradients over one to four ranks, as threads that send each other tensors."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import nn

from strategies import Ranks
from strategies.parallel.gradients import gradient_sums, reduction
from strategies.parallel.gradients.gradient_sums import GradientSums

from .thread_ranks import as_ranks

SHAPES: dict[str, tuple[int, ...]] = {"a": (40, 3), "b": (7,), "c": (), "d": (11, 2), "e": (0, 4)}
EXPONENTS = {"a": 9, "b": 3, "c": 3, "d": -2}
Grads = list[torch.Tensor | None]


def sums_of_a_rank(
    steps: list[tuple[int, list[Grads]]],
    dtype: torch.dtype,
    exponents: dict[str, int],
    bucket_elements: int | None,
    ranks: Ranks,
) -> list[tuple[Grads, list[str], dict[str, int]]]:
    """What one rank finds in each step: totals, names that are inexact, exponents."""
    world_size = ranks.world_size
    named = [(name, nn.Parameter(torch.zeros(shape).to(dtype))) for name, shape in SHAPES.items()]
    sums = GradientSums(named, ranks, bucket_elements=bucket_elements)
    found = []
    for count, micro_batches in steps:
        sums.begin(exponents, count)
        for number in range(-(-count // world_size)):
            mine = number * world_size + ranks.rank
            # A rank that comes short repeats one with weight zero.
            grads = micro_batches[mine % count]
            for (_, parameter), grad in zip(named, grads, strict=True):
                parameter.grad = None if grad is None else grad.to(dtype) * (mine < count)
            sums.add()
        inexact = sums.reduce()
        totals = [None if p.grad is None else p.grad.clone() for _, p in named]
        exponents = sums.exponents
        found.append((totals, inexact, exponents))
    return found


def of_all(
    monkeypatch: pytest.MonkeyPatch,
    world_size: int,
    steps: list[tuple[int, list[Grads]]],
    *,
    dtype: torch.dtype = torch.float32,
    exponents: dict[str, int] = EXPONENTS,
    bucket_elements: int | None = None,
    share_memory: bool = False,
) -> list[tuple[Grads, list[str], dict[str, int]]]:
    """What all ranks find, which is the same."""
    of_one = partial(sums_of_a_rank, steps, dtype, exponents, bucket_elements)
    first, *others = as_ranks(monkeypatch, world_size, of_one, share_memory=share_memory)
    for other in others:
        assert_same(first, other)
    return first


def assert_same(first: Any, other: Any) -> None:
    for (ours, *rest), (theirs, *others) in zip(first, other, strict=True):
        assert rest == others
        for one, two in zip(ours, theirs, strict=True):
            assert (one is None) == (two is None)
            assert one is None or (one.dtype, one.shape) == (two.dtype, two.shape)
            assert one is None or torch.equal(one.nan_to_num(7.0), two.nan_to_num(7.0))


def micro_batches(count: int, seed: int = 3) -> list[Grads]:
    """Gradients over many magnitudes; only the second micro-batch touches "d"."""
    generator = torch.Generator().manual_seed(seed)
    made: list[Grads] = [
        [
            torch.randn(shape, generator=generator)
            * torch.exp(3 * torch.randn(shape, generator=generator))
            for shape in SHAPES.values()
        ]
        for _ in range(count)
    ]
    for number, grads in enumerate(made):
        if number != 1:
            grads[3] = None
    return made


def steps_of(*counts: int) -> list[tuple[int, list[Grads]]]:
    return [(count, micro_batches(count, seed)) for seed, count in enumerate(counts)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bucket_elements", [1, 30, None])
@pytest.mark.parametrize("share_memory", [False, True])
def test_any_number_of_ranks_finds_the_same_bits(
    share_memory: bool,
    dtype: torch.dtype,
    bucket_elements: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few micro-batches are held, many are summed; steps of both kinds follow one another."""
    steps = steps_of(7, 2, 5, 9)
    truth = of_all(monkeypatch, 1, steps, dtype=dtype)
    for world_size in (1, 2, 3, 4):
        how: Any = {"dtype": dtype, "bucket_elements": bucket_elements}
        found = of_all(monkeypatch, world_size, steps, **how, share_memory=share_memory)
        assert_same(truth, found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_collectives_of_an_accelerator_find_the_same_bits(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_of(7, 2, 5)
    truth = of_all(monkeypatch, 1, steps, dtype=dtype)
    monkeypatch.setattr(gradient_sums, "reduction_of", reduction._OnDevice)
    for world_size in (1, 2, 3):
        found = of_all(monkeypatch, world_size, steps, dtype=dtype, bucket_elements=30)
        assert_same(truth, found)


def test_no_order_of_micro_batches_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    given = micro_batches(4)
    truth = of_all(monkeypatch, 1, [(4, given)])
    for order in itertools.permutations(given):
        assert_same(truth, of_all(monkeypatch, 2, [(4, list(order))]))


def test_the_totals_are_those_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded once: with gradients of one magnitude no unit takes a bit."""
    generator = torch.Generator().manual_seed(0)
    given: list[Grads] = [
        [torch.rand(shape, generator=generator) + 1 for shape in SHAPES.values()] for _ in range(6)
    ]
    for world_size in (1, 2, 4):
        ((totals, inexact, _),) = of_all(
            monkeypatch, world_size, [(6, given)], exponents=dict.fromkeys(SHAPES, 1)
        )
        assert inexact == []
        for number, total in enumerate(totals):
            each = [cast(torch.Tensor, grads[number]).double() for grads in given]
            assert total is not None
            assert torch.equal(total, torch.stack(each).sum(0).float())


@pytest.mark.parametrize("odd", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("count", [2, 6])
def test_what_is_not_finite_stays_where_it_is(
    odd: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = micro_batches(count)
    cast(torch.Tensor, given[1][1])[2] = odd
    truth = of_all(monkeypatch, 1, [(count, given)])
    for world_size, share_memory in itertools.product((2, 3), (False, True)):
        found = of_all(monkeypatch, world_size, [(count, given)], share_memory=share_memory)
        assert_same(truth, found)
        ((totals, inexact, exponents),) = found
        assert inexact == []
        assert exponents["b"] == EXPONENTS["b"]
        assert [int((~t.isfinite()).sum()) for t in totals if t is not None] == [0, 1, 0, 0, 0]


def test_what_no_rank_touches_has_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    given = micro_batches(4)
    for grads in given:
        grads[0] = None
    ((totals, _, exponents),) = of_all(monkeypatch, 2, [(4, given)])
    assert [total is None for total in totals] == [True, False, False, False, False]
    assert exponents["a"] == EXPONENTS["a"]


def test_without_a_step_before_the_first_micro_batch_tells_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = steps_of(5, 5)
    truth = of_all(monkeypatch, 1, steps, exponents={})
    for world_size in (2, 3):
        assert_same(truth, of_all(monkeypatch, world_size, steps, exponents={}))
