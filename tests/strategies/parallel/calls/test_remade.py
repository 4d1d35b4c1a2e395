"""A model that is built gets no other parts, and is not cast."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from strategies import ConfigError
from strategies.parallel.calls.model_view import ModelCalls


class Memory(nn.Module):
    """With items and methods of its own, of names that others have."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, int] = {}

    def __setitem__(self, key: str, value: int) -> None:
        self.kept[key] = value

    def __delitem__(self, key: str) -> None:
        del self.kept[key]

    def append(self, value: int) -> None:
        self.kept["last"] = value

    def half(self) -> str:  # type: ignore[override]
        return "own"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)
        self.layers = nn.ModuleList([nn.Linear(2, 2)])
        self.named = nn.ModuleDict({"a": nn.Linear(2, 2)})
        self.few = nn.ParameterList([nn.Parameter(torch.ones(2))])
        self.memory = Memory()
        self.register_buffer("mean", torch.zeros(2))


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def model(net: Net) -> Any:
    return ModelCalls(net, lambda call, args, kwargs: call.function(*args, **kwargs)).view


def set_item(model: Any) -> None:
    model.layers[0] = nn.Linear(2, 2)


def delete_item(model: Any) -> None:
    del model.layers[0]


def add_items(model: Any) -> None:
    layers = model.layers
    layers += [nn.Linear(2, 2)]


PARTS: dict[str, Callable[[Any], Any]] = {
    "parameter": lambda m: m.register_parameter("more", nn.Parameter(torch.ones(1))),
    "module": lambda m: m.body.add_module("more", nn.Linear(2, 2)),
    "submodule": lambda m: m.set_submodule("body", nn.Linear(2, 2)),
    "buffer": lambda m: m.register_buffer("more", torch.ones(1)),
    "append": lambda m: m.layers.append(nn.Linear(2, 2)),
    "extend": lambda m: m.layers.extend([nn.Linear(2, 2)]),
    "insert": lambda m: m.layers.insert(0, nn.Linear(2, 2)),
    "pop": lambda m: m.layers.pop(0),
    "update": lambda m: m.named.update({"b": nn.Linear(2, 2)}),
    "parameter list": lambda m: m.few.append(nn.Parameter(torch.ones(1))),
    "set item": set_item,
    "delete item": delete_item,
    "add items": add_items,
    "none": lambda m: setattr(m, "body", None),
    "delete": lambda m: delattr(m, "body"),
    "delete buffer": lambda m: delattr(m, "mean"),
}


@pytest.mark.parametrize("what", PARTS)
def test_other_parts_are_refused(what: str, model: Any, net: Net) -> None:
    before = net.state_dict().keys()
    with pytest.raises(ConfigError, match=r"^job\.model.*: the model was built.*passed as model="):
        PARTS[what](model)
    assert net.state_dict().keys() == before


CASTS: dict[str, Callable[[Any], Any]] = {
    "half": lambda m: m.half(),
    "bfloat16 of a part": lambda m: m.body.bfloat16(),
    "type": lambda m: m.type(torch.float64),
    "to": lambda m: m.to(torch.bfloat16),
    "to device and dtype": lambda m: m.to("cpu", dtype=torch.float64),
    "to that of a tensor": lambda m: m.to(torch.ones(1, dtype=torch.float64)),
}


@pytest.mark.parametrize("what", CASTS)
def test_casts_are_refused(what: str, model: Any, net: Net) -> None:
    with pytest.raises(ConfigError, match=r"--precision chooses what is computed with"):
        CASTS[what](model)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


def test_what_changes_nothing_is_done(model: Any, net: Net) -> None:
    assert model.to("cpu") is net
    model.to(torch.float32)
    model.float()
    model.register_buffer("cache", torch.ones(1), persistent=False)
    assert "cache" not in net.state_dict()
    net.mean = None
    model.mean = torch.ones(2)
    model.note = None


def test_methods_of_the_users_own_are_called(model: Any, net: Net) -> None:
    model.memory["a"] = 1
    model.memory.append(2)
    del model.memory["a"]
    assert net.memory.kept == {"last": 2}
    assert model.memory.half() == "own"
