import pytest
import torch

from strategies import ConfigError, require_objects
from strategies.state.stateful import OBJECT, decode_objects, encode_objects


class Kept:
    def __init__(self, value=None):
        self.value = value

    def state(self):
        return self.value

    def restore(self, state):
        self.value = state


def round_trip(value):
    encoded = encode_objects({"one": Kept(value), "other": Kept({"x": torch.ones(2)})})
    held = {f.spec.fqn: f for f in encoded.fragments}
    assert {f.spec.key for f in encoded.fragments} == {OBJECT}
    assert len(held) == len(encoded.fragments), "every tensor has a name of its own"

    def read(fqn, key, numel):
        assert key == OBJECT
        assert len(held[fqn].data) == numel
        return held[fqn].data.clone()

    return decode_objects(encoded.state, read)["one"]


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -0.5, "é", [], {}, [1, [2, {"a": None}]], {"step": 3, "names": ["a", "b"]}],
)
def test_json_comes_back(value):
    assert round_trip(value) == value


def test_tensors_come_back_in_their_shape_and_dtype():
    value = {
        "average": [torch.randn(3, 4), torch.randn(2, 3).t()],
        "count": torch.tensor(7, dtype=torch.int64),
        "none": torch.empty(0, 5),
        "half": torch.randn(3).bfloat16(),
        "leaf": torch.randn(2, requires_grad=True),
    }
    found = round_trip(value)
    for mine, theirs in zip(
        [*value["average"], value["count"], value["none"], value["half"], value["leaf"]],
        [*found["average"], found["count"], found["none"], found["half"], found["leaf"]],
        strict=True,
    ):
        assert torch.equal(mine, theirs)
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert not theirs.requires_grad


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2}]}, r'objects\["ema"\]\.state\(\)\[\'a\'\]\[1\] is a set'),
        ((1, 2), "is a tuple"),
        (float("nan"), "is nan"),
        (b"x", "is a bytes"),
        ({3: 1}, "has the key 3"),
        ({"__tensor__": 1}, "has the key '__tensor__'"),
        (lambda: 1, "is a function"),
        ([torch.zeros(2, dtype=torch.complex128)], r"\[0\]: torch.complex128 cannot be saved"),
    ],
)
def test_what_is_neither_json_nor_a_tensor_is_refused_by_name(value, message):
    with pytest.raises(ConfigError, match=message):
        require_objects({"ema": Kept(value)})


def test_an_object_without_the_two_methods_is_refused():
    with pytest.raises(ConfigError, match=r'objects\["ema"\] is a dict, which needs the two'):
        require_objects({"ema": {}})
