"""What a stream may cost is bounded by its length; the crafted ones here are small."""

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest

from checkpointing import DamagedCheckpointError
from checkpointing.importing import plain_pickle
from checkpointing.importing.deepspeed import _count, _groups
from checkpointing.importing.plain_pickle import Name, Record, parse_pickle, require_key
from checkpointing.importing.torch_file import TENSOR_NAMES, dimensions, plain_set


class Copied:
    """Pickled as a call that copies what it is given."""

    def __init__(self, what, *arguments):
        self.call = (what, arguments)

    def __reduce__(self):
        return self.call


def parse(value, protocol=2):
    return parse_pickle(pickle.dumps(value, protocol), TENSOR_NAMES, path=Path("file"))


def twice(levels):
    """A tuple of itself twice: 2**levels ends in a few bytes a level."""
    value = ("x",)
    for _ in range(levels):
        value = (value, value)
    return value


NESTED = twice(3)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "value",
    [
        {NESTED: 1},
        {NESTED: 1, 2: 3},
        frozenset([NESTED]),
        {NESTED, 1},
        Copied(OrderedDict, [(NESTED, 1)]),
        {1 << 65: 1},
        {tuple(range(9)): 1},
    ],
    ids=["item", "items", "frozenset", "set", "call", "number", "long tuple"],
)
def test_keys_are_of_plain_types(value, protocol):
    if isinstance(value, set | frozenset) and protocol == 2:
        pytest.skip("written as a call of builtins.set, which is not allowed here")
    with pytest.raises(DamagedCheckpointError, match=r"as a key, which is of no plain type"):
        parse(value, protocol)


def test_what_programs_use_as_keys_is_read():
    keys = [None, True, -7, 2**63, 0.5, "a", b"b", ("a", 0), (), Name(name="n")]
    assert [require_key(key) for key in keys] == keys
    assert require_key(record := Record(name="r")) is record
    assert parse({("a", 0): {1: [2]}}) == {("a", 0): {1: [2]}}
    with pytest.raises(ValueError, match="a tuple as a key"):
        plain_set([NESTED])


@pytest.mark.parametrize("copies", [10, 11])
def test_calls_that_copy_have_a_budget(monkeypatch, copies):
    pairs = [(n, n) for n in range(20)]
    machine = plain_pickle._Machine
    monkeypatch.setattr(plain_pickle, "_Machine", lambda allowed, _: machine(allowed, 200))
    value = [Copied(OrderedDict, pairs) for _ in range(copies)]
    if copies == 10:
        assert parse(value) == [dict(pairs)] * 10
    else:
        with pytest.raises(DamagedCheckpointError, match="copies more than 200 elements"):
            parse(value)


def test_the_budget_is_what_the_length_of_a_stream_can_need():
    """1,200 copies of a list of 1,000 are written in 30 kB, and are not made."""
    pairs = [(n, None) for n in range(1000)]
    with pytest.raises(DamagedCheckpointError, match=r"copies more than 1,0\d\d,\d{3} elements"):
        parse([Copied(OrderedDict, pairs) for _ in range(1200)])


@pytest.mark.parametrize(
    "value",
    ["ab", [-1], [True], [1.0], [1 << 63], [NESTED], [0] * 65, None, {1: 2}],
)
def test_what_is_no_shape(value):
    with pytest.raises(ValueError, match="impossible shape"):
        dimensions(value)
    assert dimensions([2, 3]) == (2, 3)


def test_an_object_is_written_down_by_its_name_alone():
    record = Record(name="a.B", state={})
    record.state["itself"] = [record, twice(3)]
    assert repr([record]) == "[<a.B>]"


def test_param_shapes_name_each_parameter_once():
    group = {"a": [2, 3], "b": ()}
    assert _groups([group, {"c": (1,)}]) == [{"a": (2, 3), "b": ()}, {"c": (1,)}]
    for wrong in ([group, group], [{1: (2,)}]):
        with pytest.raises(ValueError, match="each parameter once"):
            _groups(wrong)


def test_the_number_of_ranks_is_a_number():
    assert _count([2, Record(name="Enum", arguments=(2,))]) == 2
    with pytest.raises(TypeError, match="a tuple where a number"):
        _count([NESTED])
