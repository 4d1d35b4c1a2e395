"""Splitting the groups of an optimizer, without an engine."""

import pytest
import torch
from torch import nn

from strategies import ConfigError, Unfreezing
from strategies.parallel.zero.param_cohorts import Cohorts

NAMES = [["a", "b", "c"], ["d"]]


def made(asked: dict[str, int]) -> tuple[torch.optim.Optimizer, Cohorts, dict[str, nn.Parameter]]:
    named = {name: nn.Parameter(torch.ones(2)) for names in NAMES for name in names}
    groups = [{"params": [named[n] for n in names], "weight_decay": 0.1} for names in NAMES]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    return optimizer, Cohorts(optimizer, NAMES, Unfreezing(asked, named)), named


def test_a_group_of_one_cohort_stays_what_it_is() -> None:
    optimizer, cohorts, _ = made({})
    assert optimizer.param_groups == cohorts.groups
    assert all(a is b for a, b in zip(optimizer.param_groups, cohorts.groups, strict=True))


def test_what_begins_later_is_a_group_of_its_own_with_the_same_hyperparameters() -> None:
    optimizer, cohorts, named = made({"b": 3, "c": 5})
    members = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    assert members == [[id(named[name])] for name in "abcd"]
    assert len(cohorts.groups) == 2
    cohorts.groups[0]["lr"], cohorts.groups[1]["lr"] = 0.5, 0.7
    cohorts.follow()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 0.5, 0.7]


def test_what_is_held_keeps_value_state_and_gradient() -> None:
    optimizer, cohorts, named = made({"b": 3})
    gradients = {name: torch.ones(2) for name in named}
    for name, parameter in named.items():
        parameter.grad = gradients[name]
    cohorts.hold(frozenset({"b"}))
    optimizer.step()
    assert torch.equal(named["b"].detach(), torch.ones(2))
    assert named["b"] not in optimizer.state
    assert named["b"].grad is gradients["b"]
    assert not torch.equal(named["a"].detach(), torch.ones(2))
    cohorts.hold(frozenset())
    optimizer.step()
    assert float(optimizer.state[named["b"]]["step"]) == 1.0
    assert float(optimizer.state[named["a"]]["step"]) == 2.0


def test_half_of_what_is_stepped_together_cannot_be_held() -> None:
    _, cohorts, _ = made({"c": 5})
    with pytest.raises(ConfigError, match="a cannot be frozen while b of the same group"):
        cohorts.hold(frozenset({"a"}))


def test_a_tensor_of_a_group_is_not_shared_with_its_part() -> None:
    """Both count in place, and would count twice."""
    named = {name: nn.Parameter(torch.ones(2)) for name in "ab"}
    running = torch.tensor(1.0)
    optimizer = torch.optim.SGD([{"params": list(named.values()), "running": running}], lr=0.1)
    cohorts = Cohorts(optimizer, [["a", "b"]], Unfreezing({"b": 3}, named))
    for _ in range(2):
        cohorts.follow()
        for group in optimizer.param_groups:
            group["running"].add_(1.0)
    assert [float(group["running"]) for group in optimizer.param_groups] == [3.0, 3.0]
