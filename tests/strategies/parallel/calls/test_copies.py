"""Copies of a model are as its code built it, whatever an engine has hung on it."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from strategies import ConfigError
from strategies.modifiers.recomputation import MOVED_IN_ORDER, hold_buffers_in_recomputation
from strategies.parallel.calls.copies import AsBuilt, refuse_copies


def saved(one: Any) -> Any:
    file = io.BytesIO()
    torch.save(one, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(one: Any) -> Any:
    return pickle.loads(pickle.dumps(one))


WAYS = (saved, pickled, copy.deepcopy)


def own_hook(module: nn.Module, args: Any) -> None:
    """One of the user's."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = self.first.weight
        self.norm = spectral_norm(nn.Linear(3, 3))
        self.register_buffer("mean", torch.ones(3))
        self.beside = [self.first]
        self.first.weight.is_mine = True  # type: ignore[attr-defined]
        self.register_forward_pre_hook(own_hook)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.tied(self.first(x))) * self.mean
        return out


@pytest.fixture
def net() -> Net:
    """One that an engine has taken."""
    net = Net()
    as_built = AsBuilt(net)
    hold_buffers_in_recomputation(net)
    put = of_package("lambda *args: 1 / 0")
    net.first.forward = put  # type: ignore[method-assign]
    hook = next(iter(net.norm._forward_pre_hooks.values()))
    hook.compute_weight = put  # type: ignore[attr-defined]
    vars(net.norm)[MOVED_IN_ORDER] = ("weight_u",)
    as_built.let_be_copied(net)
    net.added = "by the script"  # type: ignore[assignment]
    return net


def of_package(code: str) -> Any:
    """Return a function as if it were written in this package."""
    return eval(code, {"__name__": "strategies.parallel.engine"})


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_has_nothing_of_the_engines(way: Callable[[Any], Any], net: Net) -> None:
    made = way(net)
    assert type(made) is Net
    assert made.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(made.state_dict()[k], v) for k, v in net.state_dict().items())
    made(torch.ones(2, 3))  # without what would raise
    with pytest.raises(ZeroDivisionError):
        net(torch.ones(2, 3))
    assert list(made._forward_pre_hooks.values()) == [own_hook]
    assert len(made._forward_hooks) == 0
    assert not made._forward_hooks_always_called
    assert MOVED_IN_ORDER not in vars(made.norm)
    assert "__reduce_ex__" not in vars(made)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_shared_stays_shared(way: Callable[[Any], Any], net: Net) -> None:
    made = way({"model": net, "part": net.first})
    assert made["model"].first is made["part"] is made["model"].beside[0]
    assert made["model"].tied.weight is made["model"].first.weight
    assert made["model"].added == "by the script"
    assert made["part"].weight.data_ptr() != net.first.weight.data_ptr()


@pytest.mark.parametrize("way", WAYS)
def test_a_class_that_reduces_itself_does_so(way: Callable[[Any], Any]) -> None:
    net = Reduced(4)
    as_built = AsBuilt(net)
    net.engine = of_package("lambda: None")
    as_built.let_be_copied(net)
    assert way(net).width == 4


class Reduced(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.engine: Any = None

    def __reduce__(self) -> Any:
        return type(self), (self.width,)


def test_a_parametrized_module_is_copied_as_torch_does() -> None:
    net = nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3)))
    as_built = AsBuilt(net)
    norm: Any = net[0].parametrizations.weight[0]  # type: ignore[union-attr,index]
    norm._power_method = of_package("lambda *args: 1 / 0")
    as_built.let_be_copied(net)
    made: Any = copy.deepcopy(net)
    made(torch.ones(2, 3))
    assert "__deepcopy__" not in vars(made[0])
    again = copy.deepcopy(made)
    original = made[0].parametrizations.weight.original
    assert again[0].parametrizations.weight.original is not original
    with pytest.raises(RuntimeError, match="only supported through state_dict"):  # torch's own
        pickle.dumps(net)


def test_parameters_are_pickled_without_what_an_engine_has_added() -> None:
    net = Net()
    as_built = AsBuilt(net)
    flat = torch.zeros(1000)
    net.first.weight.data = flat[:9].view(3, 3)
    net.first.weight.group = of_package("lambda: None")  # type: ignore[attr-defined]
    as_built.let_parameters_be_pickled(net, lambda _: None)
    file = io.BytesIO()
    torch.save([*net.first.parameters()], file)
    assert len(file.getvalue()) < 4000  # and not the whole buffer
    made = pickled([net.first.weight, net.tied.weight, nn.Parameter(torch.ones(1))])
    assert made[0] is made[1]
    assert made[0].is_mine
    assert not hasattr(made[0], "group")
    assert type(made[0]) is type(made[2]) is nn.Parameter


def test_a_parameter_that_is_not_here_is_refused() -> None:
    net = Net()
    refusal = partial(
        lambda one, parameter: "in shards" if parameter is one else None, net.first.bias
    )
    AsBuilt(net).let_parameters_be_pickled(net, refusal)
    assert pickled(net.first.weight).shape == (3, 3)
    with pytest.raises(ConfigError, match="in shards"):
        pickle.dumps(net)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_in_shards_is_refused_in_every_part(way: Callable[[Any], Any]) -> None:
    net = Net()
    refuse_copies(net, "its weights are in shards.")
    for one in (net, net.first, [net.tied]):
        with pytest.raises(
            ConfigError, match=r"job\.model cannot be copied: its weights are in sh"
        ):
            way(one)
