"""Optimizers that read one parameter while they update another; decided without ranks."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise, permutations
from math import comb
from typing import Any

import pytest
import torch
from torch import nn

from strategies import ConfigError, Parameters
from strategies.parallel.trial.coupling import MOST_PARAMETERS, related, separating_sets
from strategies.parallel.trial.owned import OwnedOrFlat, OwnedOrRows
from strategies.parallel.trial.stepping import Flat, FlatEach, FlatInPieces, Rows
from strategies.parallel.trial.trial import Cut, tried_optimizer

Factory = Callable[[Parameters], torch.optim.Optimizer]
CUTS: dict[str, Any] = {
    "fsdp": (Rows, OwnedOrRows),
    "zero2": (Flat, OwnedOrFlat),
    "zero3": (FlatEach, OwnedOrFlat),
    "pieces": (FlatInPieces, OwnedOrFlat),
}
FACTORS = [
    (f"layers.{layer}.{name}", nn.Parameter(torch.empty(shape, device="meta")))
    for layer in range(3)
    for name, shape in (("down", (4, 300 - 90 * layer)), ("up", (200 - 60 * layer, 4)))
]
"""Of each group, the trial of cut parameters gives gradients to the largest and the smallest."""


def refusal(factory: Factory, cut: str, named: Any = FACTORS) -> str | None:
    rank, owned = CUTS[cut]
    kind = Cut(strategy=cut, rank=rank, owned=owned)
    try:
        tried_optimizer(factory, named, device=torch.device("cpu"), cut=kind)
    except ConfigError as error:
        return str(error)
    return None


class Paired(torch.optim.Optimizer):
    """Updates parameters that follow each other by a rule over (of itself, of the other)."""

    def __init__(self, params: Any, rule: Any) -> None:
        super().__init__(params, {"lr": 0.1})
        self.rule = rule

    def pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        for group in self.param_groups:
            yield from zip(group["params"][::2], group["params"][1::2], strict=False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for one, other in self.pairs():
            if one.grad is not None and other.grad is not None:
                updates = self.rule(one, other), self.rule(other, one)
                one.sub_(0.1 * updates[0])
                other.sub_(0.1 * updates[1])


class AcrossGroups(Paired):
    """The first of a group goes with the first of the next one."""

    def pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        first, second = self.param_groups
        yield from zip(first["params"], second["params"], strict=True)


class Balanced(torch.optim.SGD):
    """Scales each parameter behind its step by the former one's norm: of each pair one is read."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        for group in self.param_groups:
            some = group["params"]
            for former, one in pairwise(some):
                if former.grad is not None and one.grad is not None:
                    one.mul_(1.0 + 0.01 * former.norm())


def by_weights(own: Any, other: Any) -> Any:
    return own.grad / (1.0 + other.norm())


def by_gradients(own: Any, other: Any) -> Any:
    return own.grad * torch.sign(other.grad.sum())


def by_small_gradients(own: Any, other: Any) -> Any:
    return 0.0 if own.grad.square().mean() > 1e-3 else own.grad * (1.0 + other.grad.abs().max())


def across_groups(parameters: Parameters) -> torch.optim.Optimizer:
    down = [p for name, p in parameters.named() if "down" in name]
    up = [p for name, p in parameters.named() if "up" in name]
    return AcrossGroups([{"params": down}, {"params": up, "lr": 0.2}], by_weights)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    "factory",
    [
        lambda p: Paired(p, by_weights),
        lambda p: Paired(p, by_gradients),
        lambda p: Paired(p, by_small_gradients),
        lambda p: Balanced(p, lr=0.1),
        across_groups,
    ],
)
def test_an_optimizer_that_reads_another_parameter_is_refused(factory: Factory, cut: str) -> None:
    told = refusal(factory, cut)
    assert told is not None
    assert f"gives another result if parameters are split, as under strategy={cut}" in told
    assert "Use --strategy ddp (single on one rank)" in told


def test_both_parameters_are_named() -> None:
    named = [(f"{name}.weight", nn.Parameter(torch.empty(3, 3))) for name in "abcdefgh"]
    told = str(refusal(lambda p: Paired(p, by_small_gradients), "fsdp", named))
    said = re.search(
        r"it reads one parameter while it updates another: with other values and gradients of "
        r"(.)\.weight, a parameter of 2 dimensions \((.)\.weight\), .* differs by",
        told,
    )
    assert said is not None, told
    assert "".join(sorted(said.groups())) in ("ab", "cd", "ef", "gh")


def test_undisturbed_ones_are_not_refused() -> None:
    def alone(parameters: Parameters) -> torch.optim.Optimizer:
        return Paired(parameters, lambda own, other: own.grad)

    assert refusal(alone, "fsdp") is None
    assert refusal(lambda p: torch.optim.AdamW(p, lr=0.1), "zero2") is None


def test_a_function_that_asks_for_larger_parameters() -> None:
    def factory(parameters: Parameters) -> torch.optim.Optimizer:
        assert all(max(p.shape) > 20 for p in parameters), "small ones"
        return Paired(parameters, by_weights)

    assert "layers." in str(refusal(factory, "fsdp"))


@pytest.mark.parametrize("number", [*range(2, 12), 35, 70, 71])
def test_of_any_two_names_some_set_has_the_first_alone(number: int) -> None:
    names = [f"p{n}" for n in range(number)]
    sets = separating_sets(names)
    for one, other in permutations(names, 2):
        assert any(one in some and other not in some for some in sets)
    if 6 < number <= comb(8, 4):
        assert len(sets) <= 8


def test_one_parameter_depends_on_no_other() -> None:
    assert separating_sets(["alone"]) == []


def test_which_parameters_may_belong_together() -> None:
    few = [["a", "b"], ["c"]]
    assert related(few, ["c"]) == ["a", "b", "c"]
    many = [[f"a{n}" for n in range(100)], [f"b{n}" for n in range(50)]]
    assert related(many, ["a7", "b49"]) == ["a6", "a7", "a8", "b7", "b48", "b49", "a49"]
    assert len(related(many, [*many[0], *many[1]])) == MOST_PARAMETERS
