"""What a loop gets of a parameter whose values are elsewhere: it tells, and does not compute."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from strategies import ConfigError
from strategies.parallel.calls.model_view import ModelCalls
from strategies.parallel.calls.stand_in import (
    StandIn,
    refuse_values,
    stand_in_state_dicts,
)


class Net(nn.Module):
    """Its parameters are empty, as DeepSpeed leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.few = nn.ParameterList([nn.Parameter(torch.ones(3))])
        self.register_buffer("scale", torch.ones(1))
        for parameter in self.parameters():
            parameter.ds_shape = parameter.shape  # type: ignore[attr-defined]
            parameter.data = torch.empty(0)


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def model(net: Net) -> Any:
    def shown(own: Any) -> nn.Parameter:
        return StandIn(own, own.ds_shape, lambda: refuse_values(net, own, "zero3"))

    return ModelCalls(net, lambda call, args, kwargs: None, shown=shown).view


def test_it_tells_what_the_whole_would(model: Any, net: Net) -> None:
    assert sum(p.numel() for p in model.parameters()) == 3 * 4 + 4 + 3
    weight = model.linear.weight
    assert isinstance(weight, nn.Parameter)
    assert tuple(weight.shape) == tuple(weight.size()) == (4, 3)
    assert (weight.ndim, weight.dim(), len(weight), weight.size(1)) == (2, 2, 4, 3)
    assert (weight.dtype, weight.device) == (torch.float32, torch.device("cpu"))
    assert (weight.requires_grad, weight.grad, weight.is_leaf) == (True, None, True)
    assert weight.is_floating_point()
    assert weight.element_size() == 4
    assert f"{weight}" == repr(weight) == "Parameter of shape (4, 3), in shards"
    assert len({weight: 1}) == 1
    weight.requires_grad_(False)
    assert not net.linear.weight.requires_grad
    model.linear.bias.requires_grad = False
    assert not net.linear.bias.requires_grad


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("linear.weight", lambda m: m.linear.weight.norm()),
        ("linear.weight", lambda m: m.linear.weight.detach()),
        ("linear.weight", lambda m: m.linear.weight.data),
        ("linear.weight", lambda m: float(m.linear.weight.sum())),
        ("linear.weight", lambda m: m.linear.weight * 2),
        ("linear.weight", lambda m: m.linear.weight[0]),
        ("linear.weight", lambda m: torch.ones(2, 3) @ m.linear.weight.T),
        ("linear.weight", lambda m: nn.functional.linear(torch.ones(2, 3), m.linear.weight)),
        ("linear.weight", lambda m: nn.utils.parameters_to_vector(m.parameters())),
        ("linear.bias", lambda m: torch.no_grad()(m.linear.bias.clamp_)(0, 1)),
        ("linear.bias", lambda m: torch.stack([torch.ones(4), m.linear.bias])),
        ("linear.bias", lambda m: m.get_parameter("linear.bias").tolist()),
        ("linear.bias", lambda m: dict(m.named_parameters())["linear.bias"].cpu()),
        ("linear.bias", lambda m: m.state_dict()["linear.bias"].numpy()),
        ("few.0", lambda m: m.few[0].exp()),
        ("few.0", lambda m: next(iter(m.few)).exp()),
        ("linear.weight", lambda m: copy.deepcopy(m.linear.weight)),
        ("linear.weight", lambda m: pickle.dumps(m.state_dict())),
    ],
)
def test_its_values_are_refused_by_name(name: str, use: Callable[[Any], Any], model: Any) -> None:
    with pytest.raises(ConfigError, match=rf"the values of {name} are in shards.*job\.export\(\)"):
        use(model)


def test_it_is_given_out_where_an_engine_has_replaced_the_method(model: Any, net: Net) -> None:
    """As `zero.used_outside` does, for what a forward asks for."""
    listed = net.named_parameters
    net.named_parameters = lambda *args, **kwargs: listed(*args, **kwargs)  # type: ignore[method-assign]
    assert tuple(dict(model.named_parameters())["linear.weight"].shape) == (4, 3)
    with pytest.raises(ConfigError, match=r"the values of linear.weight are in shards"):
        dict(model.named_parameters())["linear.weight"].detach()


def test_the_models_own_state_dicts_hold_the_same(net: Net) -> None:
    """A method of the model's, such as one that saves it, does not go through the view."""

    def shown(own: Any) -> nn.Parameter:
        is_whole = own.ds_shape == own.shape
        return own if is_whole else StandIn(own, own.ds_shape, lambda: refuse_values(net, own, "z"))

    net.linear.bias.data = torch.ones(4)  # gathered
    names = list(net.state_dict())
    stand_in_state_dicts(net, shown)
    state = net.state_dict()
    assert list(state) == names
    assert state["linear.weight"].shape == (4, 3)
    assert torch.equal(state["linear.bias"], torch.ones(4))
    assert net.state_dict(keep_vars=True)["linear.weight"] is net.linear.weight
    for saved in (net.state_dict(), net.linear.state_dict(), {"few": list(state.values())}):
        with pytest.raises(ConfigError, match=r"are in shards.*job\.export\(\)"):
            torch.save(saved, io.BytesIO())


def test_what_is_held_whole_stays_what_it_is(net: Net) -> None:
    model: Any = ModelCalls(net, lambda call, args, kwargs: None, shown=lambda own: own).view
    assert model.linear.weight is net.linear.weight
    assert [id(p) for p in model.parameters()] == [id(p) for p in net.parameters()]
    assert not model.state_dict()["linear.weight"].requires_grad
    assert model.state_dict(keep_vars=True)["linear.weight"] is net.linear.weight
    assert torch.equal(model.state_dict()["scale"], torch.ones(1))


def test_its_gradient_is_what_the_engine_shows(net: Net) -> None:
    own: Any = net.linear.weight
    shown: list[Any] = [None, "elsewhere"]
    stand_in: Any = StandIn(own, own.ds_shape, lambda: None, lambda: shown[-1])
    assert stand_in.grad == "elsewhere"
    shown.pop()
    assert stand_in.grad is None
    stand_in.grad = None
