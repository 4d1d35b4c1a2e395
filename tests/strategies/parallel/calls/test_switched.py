"""What requires a gradient stays so while a run trains, where it would be trained otherwise."""

import pytest
import torch
from torch import nn

from strategies import ConfigError
from strategies.parallel.calls.switched import SwitchedParameters


@pytest.fixture
def net() -> nn.ModuleDict:
    net = nn.ModuleDict(
        {"made": nn.Linear(2, 2), "judge": nn.Linear(2, 1), "base": nn.Linear(2, 2)}
    )
    net["base"].requires_grad_(False)
    return net


def test_what_stays_as_it_was_built(net: nn.ModuleDict) -> None:
    switched = SwitchedParameters(net.named_parameters())
    switched.require_none("step 3", may_freeze=False, gathered=net["judge"].named_parameters())


def test_networks_in_turns(net: nn.ModuleDict) -> None:
    switched = SwitchedParameters(net.named_parameters())
    net["judge"].requires_grad_(False)
    switched.require_none("step 3", may_freeze=True)
    with pytest.raises(
        ConfigError,
        match=r"step 3: .* requires_grad=False on judge\.weight, judge\.bias, and .*"
        r"Resumable\(model=\{\.\.\.\}, optimizer=\{\.\.\.\}, loader=\.\.\.\)",
    ):
        switched.require_none("step 3", may_freeze=False)


def test_what_was_gathered_meanwhile(net: nn.ModuleDict) -> None:
    switched = SwitchedParameters(net.named_parameters())
    whole = torch.ones(2)
    with pytest.raises(ConfigError, match=r"requires_grad=False on judge\.bias, and each step"):
        switched.require_none("step 3", may_freeze=False, gathered=[("judge.bias", whole)])


@pytest.mark.parametrize("may_freeze", [True, False])
def test_what_no_optimizer_has_is_not_unfrozen(net: nn.ModuleDict, may_freeze: bool) -> None:
    switched = SwitchedParameters(net.named_parameters())
    net["base"].bias.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"True on base\.bias, which .* run\.prepare\(unfreeze="):
        switched.require_none("step 3", may_freeze=may_freeze)
