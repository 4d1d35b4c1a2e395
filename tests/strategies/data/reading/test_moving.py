"""Batches of every kind go to the device: here one that says where it is, without memory."""

import dataclasses
import types
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from strategies.data.reading.moving import map_tensors, to_device

META = torch.device("meta")


def one() -> torch.Tensor:
    return torch.ones(2)


@dataclasses.dataclass
class Plain:
    x: Any
    note: str = "kept"
    derived: Any = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        self.derived = [one()]


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: Any


class Own:
    """Moves itself, and gives itself back."""

    def __init__(self) -> None:
        self.x = one()

    def to(self, device: torch.device) -> "Own":
        self.x = self.x.to(device)
        return self


class InPlace(Own):
    def to(self, device: torch.device) -> None:  # type: ignore[override]
        self.x = self.x.to(device)


class NonBlocking(Own):
    def to(self, device: torch.device, *, non_blocking: bool = False) -> "NonBlocking":
        assert non_blocking
        super().to(device)
        return self


class ReadOnly(Mapping[str, Any]):
    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Named(dict[str, Any]):
    title = ""


Pair = namedtuple("Pair", ["x", "n"])

BATCHES: dict[str, tuple[Any, Any]] = {
    "tensor": (one(), lambda b: b),
    "dict": ({"x": one()}, lambda b: b["x"]),
    "OrderedDict": (OrderedDict(x=one()), lambda b: b["x"]),
    "defaultdict": (defaultdict(list, x=one()), lambda b: (b["y"], b["x"])[1]),
    "UserDict": (UserDict(x=one()), lambda b: b["x"]),
    "nested UserDict": ([UserDict(x={"y": one()})], lambda b: b[0]["x"]["y"]),
    "mapping": (ReadOnly({"x": one()}), lambda b: b["x"]),
    "proxy": (types.MappingProxyType({"x": one()}), lambda b: b["x"]),
    "list": ([one(), "text"], lambda b: b[0]),
    "tuple": ((one(), None), lambda b: b[0]),
    "namedtuple": (Pair(one(), 3), lambda b: b.x),
    "dataclass": (Plain([one()]), lambda b: b.x[0]),
    "derived": (Plain(0), lambda b: b.derived[0]),
    "frozen": (Frozen({"x": one()}), lambda b: b.x["x"]),
    "own": (Own(), lambda b: b.x),
    "own, in place": (InPlace(), lambda b: b.x),
    "own, non-blocking": ([NonBlocking()], lambda b: b[0].x),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_every_tensor_is_moved_and_the_kind_is_kept(kind: str) -> None:
    batch, tensor_of = BATCHES[kind]
    moved = to_device(batch, META)
    assert type(moved) is type(batch)
    assert tensor_of(moved).device == META


def test_a_batch_that_the_data_set_may_still_hold_is_not_changed() -> None:
    for kind in ("dict", "UserDict", "defaultdict", "dataclass", "frozen", "mapping", "list"):
        batch, tensor_of = BATCHES[kind]
        to_device(batch, META)
        assert tensor_of(batch).device.type == "cpu"


def test_what_else_a_batch_holds_stays() -> None:
    named = Named(x=one())
    named.title = "page 3"
    moved = to_device([named, Plain(one()), 4, "text", Own], META)
    assert moved[0].title == "page 3"
    assert moved[1].note == "kept"
    assert moved[2:] == [4, "text", Own]


def test_a_packed_sequence_keeps_its_sizes_on_the_host() -> None:
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    moved = to_device(packed, META)
    assert moved.data.device == META
    assert moved.batch_sizes.device.type == "cpu"


def test_a_batch_of_a_tokenizer_moves() -> None:
    transformers = pytest.importorskip("transformers")
    batch = transformers.BatchEncoding({"input_ids": torch.ones(2, 3), "labels": torch.ones(2)})
    moved = to_device({"text": batch}, META)["text"]
    assert isinstance(moved, transformers.BatchEncoding)
    assert {value.device for value in moved.values()} == {META}
    sizes = map_tensors(batch, lambda tensor: tensor[:1])
    assert sizes["input_ids"].shape == (1, 3)


def test_map_tensors_goes_where_to_device_goes() -> None:
    found = map_tensors([UserDict(x=one()), Plain(one()), Frozen(one())], lambda t: t * 2)
    assert [found[0]["x"][0], found[1].x[0], found[2].x[0]] == [2, 2, 2]
