"""What of an optimizer's numbers counts, and what is the moment of a single number."""

import torch
from torch import nn

from strategies.parallel.state.counters import is_counter
from strategies.parallel.state.optimizer_state import kept_state


def stepped(kind: type[torch.optim.Optimizer], *values: torch.Tensor) -> torch.optim.Optimizer:
    parameters = [nn.Parameter(value) for value in values]
    optimizer = kind(parameters, lr=0.1)  # type: ignore[call-arg]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def test_the_moments_of_a_number_are_told_from_its_counters() -> None:
    for kind, counters in (
        (torch.optim.AdamW, {"step"}),
        (torch.optim.NAdam, {"step", "mu_product"}),
        (torch.optim.ASGD, {"step", "eta", "mu"}),
    ):
        optimizer = stepped(kind, torch.tensor(2.0), torch.ones(3))
        number, vector = optimizer.param_groups[0]["params"]
        kept = [kept_state(optimizer, number, "number"), kept_state(optimizer, vector, "vector")]
        assert [set(one.values) for one in kept] == [counters] * 2, kind
        assert kept[0].tensors.keys() == kept[1].tensors.keys()


def test_where_nothing_but_numbers_is_trained_step_counts() -> None:
    optimizer = stepped(torch.optim.AdamW, torch.tensor(2.0))
    (number,) = optimizer.param_groups[0]["params"]
    kept = kept_state(optimizer, number, "n")
    assert set(kept.values) == {"step"}
    assert set(kept.tensors) == {"exp_avg", "exp_avg_sq"}
    assert not is_counter(optimizer, number, "ema", torch.tensor(1.0))
