"""Sums of gradients on one rank, over micro-batches in any order."""

import itertools
from functools import reduce
from typing import Any, cast

import pytest
import torch
from torch import nn

from strategies import ConfigError, Ranks
from strategies.parallel.gradients.gradient_sums import GradientSums

RANKS = Ranks(rank=0, world_size=1, device=torch.device("cpu"), host_group=cast(Any, None))


def parameters(**shapes: tuple[int, ...]) -> list[tuple[str, nn.Parameter]]:
    return [(name, nn.Parameter(torch.zeros(shape))) for name, shape in shapes.items()]


def gradients(count: int, *shape: int, spread: float = 6.0) -> list[torch.Tensor]:
    """Some that cancel, over many magnitudes."""
    generator = torch.Generator().manual_seed(5)
    made = [
        torch.randn(shape, generator=generator)
        * torch.exp(spread * torch.randn(shape, generator=generator))
        for _ in range(count - 1)
    ]
    return [*made, -made[0] * (1 + 1e-6)]


def summed(
    named: list[tuple[str, nn.Parameter]], order: list[Any], exponents: dict[str, int]
) -> tuple[list[torch.Tensor | None], list[str], dict[str, int]]:
    sums = GradientSums(named, RANKS)
    sums.begin(exponents, len(order))
    for grads in order:
        for (_, parameter), grad in zip(named, grads, strict=True):
            parameter.grad = None if grad is None else grad.clone()
        sums.add()
        assert all(p.grad is None for _, p in named)
    inexact = sums.reduce()
    return [p.grad for _, p in named], inexact, sums.exponents


def test_no_order_changes_a_bit() -> None:
    named = parameters(w=(50, 7))
    batches = [[one] for one in gradients(5, 50, 7)]
    exponents = {"w": 12}
    found = []
    for order in itertools.permutations(batches):
        (grad,), inexact, _ = summed(named, list(order), exponents)
        assert grad is not None
        assert inexact == []
        found.append(grad)
    assert all(torch.equal(found[0], one) for one in found)
    # And fp32 does depend on it: the test would notice a sum in it.
    plain = [
        reduce(torch.add, [one[0] for one in order]) for order in itertools.permutations(batches)
    ]
    assert any(not torch.equal(plain[0], one) for one in plain)


def test_the_sum_is_as_good_as_one_in_float64() -> None:
    grads = gradients(9, 1000, spread=1.0)
    (grad,), _, _ = summed(parameters(w=(1000,)), [[g] for g in grads], {"w": 4})
    truth = torch.stack(grads).double().sum(0)
    assert grad is not None
    # Its own rounding to fp32, and half a unit of each gradient.
    allowed = truth.abs() * 2.0**-24 + 9 * 2.0**-30
    assert ((grad.double() - truth).abs() <= allowed).all()


def test_the_next_step_knows_the_largest_gradient_of_this() -> None:
    named = parameters(a=(2,), b=(2,))
    order = [[torch.tensor([0.1, -3.0]), None], [torch.tensor([0.2, 1.0]), None]]
    (a, b), _, exponents = summed(named, order, {"a": 0, "b": -5})
    assert torch.equal(cast(torch.Tensor, a), torch.tensor([0.3, -2.0]))
    assert b is None
    assert exponents == {"a": 2, "b": -5}


def test_without_a_step_before_the_first_micro_batch_tells() -> None:
    order = [[torch.tensor([0.7])], [torch.tensor([-0.2])]]
    (grad,), inexact, exponents = summed(parameters(a=(1,)), order, {})
    assert inexact == []
    assert float(cast(torch.Tensor, grad)) == pytest.approx(0.5)
    assert exponents == {"a": 0}


def test_a_gradient_that_has_grown_too_much_is_named() -> None:
    named = parameters(a=(1,), b=(1,))
    order = [[torch.tensor([2.0**30]), torch.tensor([1.0])]]
    _, inexact, exponents = summed(named, order, {"a": 0, "b": 0})
    assert inexact == ["a"]
    assert exponents == {"a": 31, "b": 1}  # the next step is exact again


def test_what_is_not_finite_is_left_for_the_norm_to_find() -> None:
    (grad,), inexact, exponents = summed(
        parameters(a=(2,)), [[torch.tensor([torch.inf, 1.0])], [torch.ones(2)]], {"a": 1}
    )
    assert not torch.isfinite(cast(torch.Tensor, grad)).all()
    assert (inexact, exponents) == ([], {"a": 1})


def test_what_float64_cannot_sum_exactly_is_refused() -> None:
    with pytest.raises(ConfigError, match="parameter w is float64"):
        GradientSums([("w", nn.Parameter(torch.zeros(2).double()))], RANKS)
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    sums = GradientSums(list(embedding.named_parameters()), RANKS)
    sums.begin({"weight": 0}, 1)
    with pytest.raises(ConfigError, match="sparse=False"):
        sums.add()
