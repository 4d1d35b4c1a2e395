"""Sums that end with those who own them, on one rank: what is laid where, and in which order."""

import itertools
from typing import Any, cast

import pytest
import torch
from torch import nn

from strategies import ConfigError, Ranks
from strategies.parallel.gradients.gradient_sums import GradientSums
from strategies.parallel.gradients.partition_sums import Cut, PartitionSums, _Bucket, _filled

RANKS = Ranks(rank=0, world_size=1, device=torch.device("cpu"), host_group=cast(Any, None))
SHAPES = {"a": (40, 3), "b": (7,), "c": (), "d": (11, 2)}
EXPONENTS = {"a": 3, "b": 3, "c": 3, "d": 3}


def named() -> list[tuple[str, nn.Parameter]]:
    return [(name, nn.Parameter(torch.zeros(shape))) for name, shape in SHAPES.items()]


def whole(parameters: list[tuple[str, nn.Parameter]]) -> dict[str, list[Cut]]:
    """Each parameter in two cuts, both of the one rank."""
    cuts = {}
    for name, parameter in parameters:
        half = parameter.numel() // 2
        bounds = [(0, half), (half, parameter.numel())]
        cuts[name] = [Cut(rank=0, start=start, end=end) for start, end in bounds if start < end]
    return cuts


def gradients(count: int) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        [torch.randn(shape, generator=generator) for shape in SHAPES.values()] for _ in range(count)
    ]


def joined(sums: PartitionSums) -> dict[str, torch.Tensor]:
    parts: dict[str, list[tuple[int, torch.Tensor]]] = {}
    for name, cut, total in sums.totals():
        parts.setdefault(name, []).append((cut.start, total))
    return {
        name: torch.cat([one for _, one in sorted(held, key=lambda pair: pair[0])])
        for name, held in parts.items()
    }


@pytest.mark.parametrize("bucket_elements", [1, 30, 1 << 20])
def test_sums_are_those_of_whole_gradients_in_any_order(bucket_elements: int) -> None:
    batches, parameters = gradients(3), named()
    truth = GradientSums(parameters, RANKS)
    truth.begin(EXPONENTS, 3)
    for batch in batches:
        for (_, parameter), grad in zip(parameters, batch, strict=True):
            parameter.grad = grad.clone()
        truth.add()
    assert truth.reduce() == []
    for order in itertools.permutations(range(4)):
        sums = PartitionSums(parameters, whole(parameters), RANKS, bucket_elements=bucket_elements)
        sums.begin(EXPONENTS, 3)
        for batch in batches:
            for number in order:
                sums.take(number, batch[number])
            sums.finish()
        sums.ask()
        assert sums.agree() == []
        assert sums.exponents == truth.exponents
        found = joined(sums)
        for name, parameter in parameters:
            assert parameter.grad is not None
            assert torch.equal(found[name].float(), parameter.grad.reshape(-1))


def test_what_has_not_come_is_zero() -> None:
    parameters = named()
    sums = PartitionSums(parameters, whole(parameters), RANKS)
    sums.begin(EXPONENTS, 1)
    sums.take(1, torch.ones(7))
    sums.finish()
    assert {name: float(one.sum()) for name, one in joined(sums).items()} == {
        "a": 0.0, "b": 7.0, "c": 0.0, "d": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("bucket_elements", [1, 1 << 20])
def test_a_gradient_that_comes_twice_is_refused(bucket_elements: int) -> None:
    parameters = named()
    sums = PartitionSums(parameters, whole(parameters), RANKS, bucket_elements=bucket_elements)
    sums.begin(EXPONENTS, 1)
    sums.take(3, torch.ones(11, 2))
    with pytest.raises(ConfigError, match="gradient of d has come twice"):
        sums.take(3, torch.ones(11, 2))


def test_buckets_are_filled_up_to_their_size() -> None:
    sizes = [(3, 5), (2, 4), (1, 20), (0, 1)]
    assert list(_filled(sizes, 10)) == [[3, 2], [1], [0]]
    assert list(_filled(sizes, 100)) == [[3, 2, 1, 0]]
    assert list(_filled([], 10)) == []


def test_a_bucket_is_laid_out_by_owner() -> None:
    cuts = [
        [Cut(rank=0, start=0, end=6), Cut(rank=1, start=6, end=9)],
        [Cut(rank=1, start=0, end=2)],
    ]
    bucket = _Bucket([4, 7], cuts, 2)
    assert (bucket.is_even, bucket.size, bucket.stride) == (True, 12, 6)  # 11 elements
    assert [(p.number, p.cut.rank, p.offset) for p in bucket.places] == [
        (4, 0, 0),
        (4, 1, 6),
        (7, 1, 9),
    ]
    alone = _Bucket([7], [[Cut(rank=1, start=0, end=2)]], 2)
    assert (alone.is_even, alone.size) == (False, 2)
    assert [alone.length_of(rank) for rank in (0, 1)] == [0, 2]
