"""Sums of gradients over one to four ranks, as threads that send each other tensors."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import nn

from strategies import Ranks
from strategies.parallel.gradients import gradient_sums, reduction
from strategies.parallel.gradients.gradient_sums import GradientSums

LIMIT_S = 60
SHAPES: dict[str, tuple[int, ...]] = {"a": (40, 3), "b": (7,), "c": (), "d": (11, 2), "e": (0, 4)}
EXPONENTS = {"a": 9, "b": 3, "c": 3, "d": -2}
Grads = list[torch.Tensor | None]


class Group:
    """What `torch.distributed` is to ranks that are threads."""

    def __init__(self, world_size: int) -> None:
        self.rank = threading.local()
        self._sent: dict[Any, SimpleQueue[torch.Tensor]] = defaultdict(SimpleQueue)
        self._met = threading.Barrier(world_size, timeout=LIMIT_S)
        self._all: list[torch.Tensor] = [torch.empty(0)] * world_size

    def isend(self, tensor: torch.Tensor, dst: int, tag: int) -> Any:
        assert tensor.is_contiguous()
        self._sent[self.rank.own, dst, tag].put(tensor.clone())
        return SimpleNamespace(wait=lambda: None)

    def irecv(self, tensor: torch.Tensor, src: int, tag: int) -> Any:
        assert tensor.is_contiguous()
        queue = self._sent[src, self.rank.own, tag]
        return SimpleNamespace(wait=lambda: tensor.copy_(queue.get(timeout=LIMIT_S)))

    def _gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self._all[self.rank.own] = tensor.clone()
        self._met.wait()
        found = list(self._all)
        self._met.wait()
        return found

    def all_reduce(self, tensor: torch.Tensor, op: Any) -> None:
        assert op == dist.ReduceOp.MAX
        tensor.copy_(torch.stack(self._gather(tensor)).amax(0))

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        tensor.copy_(self._gather(tensor)[src])

    def reduce_scatter_tensor(self, output: torch.Tensor, given: torch.Tensor) -> None:
        total = torch.stack(self._gather(given)).sum(0)
        output.copy_(total.chunk(len(self._all))[self.rank.own])

    def all_gather_into_tensor(self, output: torch.Tensor, given: torch.Tensor) -> None:
        output.copy_(torch.cat(self._gather(given)))


def sums_of_a_rank(
    rank: int, world_size: int, steps: list[tuple[int, list[Grads]]], group: Group, **how: Any
) -> list[tuple[Grads, list[str], dict[str, int]]]:
    """What one rank finds in each step: totals, names that are inexact, exponents."""
    group.rank.own = rank
    ranks = cast(
        Ranks, SimpleNamespace(world_size=world_size, rank=rank, device=torch.device("cpu"))
    )
    dtype = how.pop("dtype")
    exponents: dict[str, int] = how.pop("exponents")
    named = [(name, nn.Parameter(torch.zeros(shape).to(dtype))) for name, shape in SHAPES.items()]
    sums = GradientSums(named, ranks, **how)
    found = []
    for count, micro_batches in steps:
        sums.begin(exponents, count)
        for number in range(-(-count // world_size)):
            mine = number * world_size + rank
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
) -> list[tuple[Grads, list[str], dict[str, int]]]:
    """What all ranks find, which is the same."""
    group = Group(world_size)
    for name in vars(Group):
        if not name.startswith("_"):
            monkeypatch.setattr(dist, name, getattr(group, name))
    how: Any = {"dtype": dtype, "exponents": exponents, "bucket_elements": bucket_elements}
    with ThreadPoolExecutor(world_size) as pool:
        running = [
            pool.submit(sums_of_a_rank, rank, world_size, steps, group, **how)
            for rank in range(world_size)
        ]
        first, *others = [one.result(LIMIT_S) for one in running]
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
def test_any_number_of_ranks_finds_the_same_bits(
    dtype: torch.dtype, bucket_elements: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few micro-batches are held, many are summed; steps of both kinds follow one another."""
    steps = steps_of(7, 2, 5, 9)
    truth = of_all(monkeypatch, 1, steps, dtype=dtype)
    for world_size in (1, 2, 3, 4):
        how: Any = {"dtype": dtype, "bucket_elements": bucket_elements}
        assert_same(truth, of_all(monkeypatch, world_size, steps, **how))


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
    for world_size in (2, 3):
        found = of_all(monkeypatch, world_size, [(count, given)])
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
