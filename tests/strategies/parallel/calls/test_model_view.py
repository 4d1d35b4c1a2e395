"""The model as a training loop holds it: which calls go through the engine, and what is the user's
own."""

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from strategies import ConfigError
from strategies.parallel.calls.autocast import forward_replaced
from strategies.parallel.calls.model_view import (
    IN_SHARDS,
    Call,
    ModelCalls,
    may_hold_gradients,
)


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)  # type: ignore[no-any-return]

    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * 2  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = {"width": 2}
        self.part = Part()
        self.parts = nn.ModuleList([Part(), Part()])
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x)  # type: ignore[no-any-return]

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x) + 1  # type: ignore[no-any-return]

    def size(self) -> int:
        return 7

    def get_part(self) -> nn.Module:
        return self.part

    def stream(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        yield x

    @property
    def width(self) -> int:
        return self.config["width"]


class Engine:
    """Carries calls out, and notes them."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: list[Call] = []
        self.calls = ModelCalls(model, self._through)

    def _through(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.seen.append(call)
        return call.function(*args, **kwargs)


X = torch.ones(3, 2)


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def engine(net: Net) -> Engine:
    return Engine(net)


@pytest.fixture
def model(engine: Engine) -> Any:
    return engine.calls.view


@pytest.mark.parametrize(
    ("call", "through"),
    [
        (lambda m: m(X), ""),
        (lambda m: m(x=X), ""),
        (lambda m: m.module(X), ""),
        (lambda m: m.forward(X), "net"),
        (lambda m: m.encode(X), "net"),
        (lambda m: m.module.encode(x=X), "net"),
        (lambda m: m.part(X), "net"),
        (lambda m: m.part.linear(X), "net part"),
        (lambda m: m.part.twice(X), "net part"),
        (lambda m: m.parts[1](X), "net parts"),
        (lambda m: next(part(X) for part in m.parts), "net parts"),
        (lambda m: m.get_part()(X), "net"),
    ],
)
def test_what_computes_goes_through_the_engine(
    call: Any, through: str, model: Any, net: Net, engine: Engine
) -> None:
    names = {id(net): "net", id(net.part): "part", id(net.parts): "parts"}
    result = call(model)
    assert result.requires_grad
    enclosing = " ".join(names[id(m)] for m in engine.seen[-1].enclosing)
    assert enclosing == through
    assert engine.calls.has_passed


def test_what_tells_or_sets_does_not_unless_all_ranks_are_there(model: Any, engine: Engine) -> None:
    assert model.size() == 7
    assert model.get_part() is not None
    assert list(model.stream(X)) == [X]
    assert len(model.state_dict()) == 7
    assert engine.seen == []
    engine.calls.are_together = True
    assert model.size() == 7
    assert len(engine.seen) == 1
    assert not engine.calls.has_passed


def test_a_call_without_gradients_is_none_for_a_loss(model: Any, engine: Engine) -> None:
    with torch.no_grad():
        model(X)
    assert not engine.calls.has_passed
    model(X)
    assert engine.calls.has_passed


def test_it_is_the_users_model_to_read(model: Any, net: Net) -> None:
    assert isinstance(model, Net)
    assert isinstance(model, nn.Module)
    assert isinstance(model.part, Part)
    assert not isinstance(model, nn.Linear)
    assert model.config is net.config
    assert model.width == 2
    assert model.part.linear.weight is net.part.linear.weight
    assert list(model.state_dict()) == list(net.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert model == net
    assert model.module == model
    assert {model: 1}[net] == 1
    assert repr(model) == repr(net)
    assert "encode" in dir(model)
    assert len(model.parts) == 2
    assert bool(model)
    assert not hasattr(model, "nothing")
    with pytest.raises(TypeError):
        len(model)
    model.eval()
    assert not net.training


def test_unwrapping_comes_to_an_end(model: Any) -> None:
    inner = model
    while hasattr(inner, "module"):
        inner = inner.module
    assert isinstance(inner, Net)
    assert inner.config == {"width": 2}


def test_a_module_of_that_name_is_the_users_own() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Part()

    net = Wrapped()
    assert isinstance(Engine(net).calls.view.module, Part)


def test_attributes_are_set_in_the_users_model(model: Any, net: Net) -> None:
    model.temperature = 3.0
    model.scale = torch.full((1,), 5.0)
    model.part.linear.note = "here"
    assert (net.temperature, float(net.scale), net.part.linear.note) == (3.0, 5.0, "here")
    assert "scale" in net.state_dict()
    del model.temperature
    assert not hasattr(net, "temperature")


@pytest.mark.parametrize("value", [nn.Linear(2, 2), nn.Parameter(torch.ones(2))])
def test_what_would_have_to_be_trained_is_made_before(value: Any, model: Any) -> None:
    with pytest.raises(ConfigError, match=r"job\.model\.extra was given a (Linear|Parameter)"):
        model.extra = value


def test_what_an_engine_would_undo_is_refused(net: Net) -> None:
    calls = ModelCalls(net, lambda call, args, kwargs: None, refused={"load_state_dict": "lost"})
    with pytest.raises(ConfigError, match=r"job\.model\.load_state_dict: lost"):
        calls.view.load_state_dict({})
    assert calls.view.state_dict()


def test_a_copy_is_one_of_the_users_model(model: Any, net: Net) -> None:
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(made) is Net
        assert made is not net
        assert torch.equal(made.part.linear.weight, net.part.linear.weight)


def test_what_is_in_shards_is_not_copied(net: Net) -> None:
    model: Any = ModelCalls(net, lambda call, args, kwargs: None, refused=IN_SHARDS).view
    for make in (copy.deepcopy, pickle.dumps, lambda one: copy.deepcopy(one.part)):
        with pytest.raises(
            ConfigError, match=r"job\.model cannot be copied: its weights are in sh"
        ):
            make(model)


@pytest.mark.parametrize("name", ["save_pretrained", "push_to_hub"])
def test_what_would_write_shards_is_refused(name: str, net: Net) -> None:
    """As the models of transformers and peft have them; of a part as well."""
    for module in (net, net.part):
        setattr(module, name, lambda folder: None)
    model: Any = ModelCalls(net, lambda call, args, kwargs: None, refused=IN_SHARDS).view
    for one in (model, model.part):
        with pytest.raises(ConfigError, match=rf"job\.model\.{name}: .* job\.export\(\) on every"):
            getattr(one, name)("folder")


def test_it_can_be_a_part_of_another_module(model: Any, net: Net, engine: Engine) -> None:
    outer = nn.Sequential(model)
    assert [n for n, _ in outer.named_parameters()] == [f"0.{n}" for n, _ in net.named_parameters()]
    outer(X)
    assert len(engine.seen) == 1


def test_a_sequential_is_one() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model: Any = Engine(net).calls.view
    assert len(model) == 2
    assert [type(part).__name__ for part in net] == ["Linear", "ReLU"]
    assert isinstance(model[0], nn.Linear)
    assert isinstance(model[:1], nn.Sequential)
    assert torch.equal(model[:1](X), net[0](X))


@dataclass
class Opaque:
    logits: torch.Tensor


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (torch.ones(1), False),
        (torch.ones(1, requires_grad=True), True),
        ({"a": [torch.ones(1), torch.ones(1, requires_grad=True)]}, True),
        ({"a": 1.0, "b": None, "c": "text"}, False),
        (Opaque(torch.ones(1)), True),
        ((), False),
    ],
)
def test_what_a_loss_can_hang_on(result: Any, expected: bool) -> None:
    assert may_hold_gradients(result) is expected


def test_a_forward_is_replaced_once(net: Net) -> None:
    seen: list[int] = []
    net.register_forward_hook(lambda module, args, result: seen.append(1))
    with forward_replaced(net, lambda x: net(x) * 0 + 5):
        assert float(net(X).detach().max()) == 5.0
    assert len(seen) == 2
    assert "forward" not in net.__dict__
    with pytest.raises(ValueError, match="no"), forward_replaced(net, int):
        net("no number")
    assert "forward" not in net.__dict__
