"""A model that is built gets no other parts, and is not cast."""

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import register_parametrization

from strategies import ConfigError
from strategies.parallel.calls.model_view import ModelCalls
from strategies.parallel.calls.remade import PartsAsBuilt


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


class Growing(nn.Module):
    """With methods that make another model of it, and some that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 2)
        self.act: nn.Module = nn.ReLU()
        self.bare = nn.Linear(2, 2, bias=False)

    def add(self) -> None:
        self.more = nn.Linear(2, 2)

    def replace_head(self) -> None:
        self.head = nn.Linear(2, 3)

    def renew(self) -> None:
        self.head.weight = nn.Parameter(torch.zeros(2, 2))

    def tie(self) -> None:
        self.head.weight = self.body.weight

    def leave_out(self) -> None:
        self.head.register_parameter("bias", None)

    def hold_a_teacher(self) -> None:
        self.teacher = copy.deepcopy(self).requires_grad_(False)

    def weigh_classes(self) -> None:
        self.loss = nn.CrossEntropyLoss(weight=torch.ones(2))

    def drop(self) -> None:
        del self.head

    def drop_bias(self) -> None:
        del self.head.bias

    def swap_in_the_table(self) -> None:
        self._modules["head"] = nn.Linear(2, 2)

    def change_nothing(self) -> None:
        self.head = self.head
        self.head.weight = self.head.weight
        self.bare.register_parameter("bias", None)
        self.act = nn.GELU()
        self.dropout = nn.Dropout(0.1)
        self.loss = nn.CrossEntropyLoss()
        self.register_buffer("cache", torch.ones(1), persistent=False)
        nn.init.zeros_(self.head.weight)


OWN: dict[str, tuple[Callable[[Growing], Any], str]] = {
    "add": (Growing.add, "job.model.more = Linear("),
    "replace": (Growing.replace_head, "job.model.head = Linear("),
    "parameter": (Growing.renew, "job.model.head.weight = Parameter of shape (2, 2)"),
    "tie": (Growing.tie, "job.model.head.weight = Parameter of shape (2, 2)"),
    "frozen": (Growing.hold_a_teacher, "job.model.teacher = Growing("),
    "buffer": (Growing.weigh_classes, "job.model.loss = CrossEntropyLoss("),
    "prune": (
        lambda net: prune.l1_unstructured(net.head, "weight", amount=0.5),  # type: ignore[no-untyped-call]
        "job.model.head.weight_orig = Parameter of shape (2, 2)",
    ),
    "weight norm": (
        lambda net: weight_norm(net.head),
        "job.model.head.parametrizations.weight = ",
    ),
    "parametrization": (
        lambda net: register_parametrization(net.head, "weight", nn.Identity()),
        "job.model.head.parametrizations.weight = ",
    ),
}
"""By name: what is done to it once it is built, and how the sentence begins."""


@pytest.mark.parametrize("what", OWN)
def test_parts_that_the_model_itself_changes_are_refused_at_once(what: str) -> None:
    net = Growing()
    parts = PartsAsBuilt(net)
    change, words = OWN[what]
    with pytest.raises(ConfigError, match=r"the model was built.*passed as model=") as error:
        change(net)
    assert str(error.value).startswith(words)
    del parts


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (Growing.drop, "head"),
        (Growing.drop_bias, "head.bias"),
        (Growing.leave_out, "head.bias"),
        (Growing.swap_in_the_table, "head"),
    ],
)
def test_what_is_taken_away_is_seen_before_the_backward(
    change: Callable[[Growing], None], name: str
) -> None:
    net = Growing()
    parts = PartsAsBuilt(net)
    parts.require_all("step 3")
    change(net)
    with pytest.raises(ConfigError, match=rf"^step 3: job\.model: {name} was removed or replaced"):
        parts.require_all("step 3")


def test_what_makes_no_other_model_is_done() -> None:
    net, other = Growing(), Growing()
    parts = PartsAsBuilt(net)
    net.change_nothing()
    other.add()
    copy.deepcopy(net).add()
    parts.require_all("step 3")


def test_a_model_that_is_gone_is_watched_no_more() -> None:
    hooks = nn.modules.module._global_parameter_registration_hooks
    gc.collect()
    before = len(hooks)
    net = Growing()
    PartsAsBuilt(net)
    assert len(hooks) == before + 1
    del net
    gc.collect()
    assert len(hooks) == before


class Remembering(nn.Module):
    seen: torch.Tensor
    mean: torch.Tensor | None
    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0))
        self.register_buffer("mean", None)
        self.register_buffer("scale", torch.ones(1))
        self.part = nn.BatchNorm1d(2)

    def grow(self) -> None:
        self.seen = torch.cat([self.seen, torch.ones(1)])

    def fill(self) -> None:
        self.mean = torch.ones(2)

    def add(self) -> None:
        self.part.register_buffer("more", torch.ones(2))

    def remove(self) -> None:
        del self.scale

    def move(self) -> None:
        self.scale = self.scale * 2
        self.part(torch.ones(3, 2))
        self.register_buffer("cache", torch.ones(2), persistent=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Remembering.grow, "the buffer seen has changed its shape from (0,) to (1,)"),
        (Remembering.fill, "the buffer mean was made after the model was built"),
        (Remembering.add, "the buffer part.more was made after"),
        (Remembering.remove, "the buffer scale was removed after"),
    ],
)
def test_buffers_that_a_checkpoint_would_not_hold_are_refused(
    change: Callable[[Remembering], None], words: str
) -> None:
    net = Remembering()
    parts = PartsAsBuilt(net)
    net.move()
    parts.require_all("step 0")
    change(net)
    with pytest.raises(ConfigError, match=r"^step 0: the buffer .* persistent=False") as error:
        parts.require_all("step 0")
    assert words in str(error.value)
