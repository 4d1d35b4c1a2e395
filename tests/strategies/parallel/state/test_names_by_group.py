"""Which parameters an optimizer got, in which groups."""

import pytest
import torch
from torch import nn

from strategies import ConfigError
from strategies.parallel.state.optimizer_state import names_by_group

MODEL = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
NAMED = list(MODEL.named_parameters())
ALL = [parameter for _, parameter in NAMED]


def sgd(*groups):
    return torch.optim.SGD([{"params": group} for group in groups], lr=0.1)


def test_the_names_are_those_of_the_groups_in_their_order():
    assert names_by_group(sgd(ALL[2:], ALL[:2]), NAMED) == [
        ["1.weight", "1.bias"],
        ["0.weight", "0.bias"],
    ]


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_that_is_held_twice():
    with pytest.raises(ConfigError, match=r"holds 0.bias more than once"):
        names_by_group(sgd([*ALL, ALL[1]]), NAMED)


@pytest.mark.parametrize(
    ("groups", "former", "says"),
    [
        ((ALL[:3],), None, r"1 trainable parameters are in no group of the optimizer \(1.bias\)"),
        (([*ALL, nn.Parameter(torch.ones(1))],), None, "group 0 .* holds 1 parameters that are"),
        ((ALL[:2], [nn.Parameter(torch.ones(1))]), "old.weight", "group 1 .* holds old.weight as"),
    ],
)
def test_parameters_that_are_missing_or_not_the_models(groups, former, says):
    before = {id(groups[-1][-1]): former} if former else None
    with pytest.raises(ConfigError, match=says):
        names_by_group(sgd(*groups), NAMED, before)
