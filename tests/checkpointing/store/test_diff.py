import pytest
import torch

from checkpointing import TensorSpec, different_specs, different_states, different_values
from checkpointing.store import diff as module

NAN = float("nan")
INF = float("inf")


def spec(name, shape=(2,), dtype="F32"):
    return TensorSpec(fqn=name, key="fp32", shape=shape, dtype=dtype)


@pytest.mark.parametrize(
    ("left", "right", "names"),
    [
        ([], [], []),
        ([spec("a")], [spec("a")], []),
        ([spec("a"), spec("b")], [spec("b"), spec("a")], []),
        ([spec("a")], [spec("b")], ["fp32/a", "fp32/b"]),
        ([spec("a")], [spec("a", shape=(2, 1))], ["fp32/a"]),
        ([spec("a")], [spec("a", dtype="BF16")], ["fp32/a"]),
    ],
)
def test_specs(left, right, names):
    assert [one.name for one in different_specs(left, right)] == names


@pytest.mark.parametrize(
    ("left", "right", "paths"),
    [
        ({}, {}, []),
        ({"a": {"b": 1}}, {"a": {"b": 1}}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b"]),
        ({"a": {}}, {"a": {"b": 2}}, ["a", "a.b"]),
        ({"a": None, "b": 1}, {"b": 1}, ["a"]),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": 1}, {"a": 1.0}, ["a"]),
        ({"a.b": {"c": 1}}, {"a": {"b.c": 1}}, ["a.b.c", "a.b.c"]),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a"]),
    ],
)
def test_states(left, right, paths):
    assert [one.path for one in different_states(left, right)] == paths


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]), None),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.0]), (1, 0.5)),
        (torch.tensor([0.0]), torch.tensor([-0.0]), (1, 0.0)),
        (torch.tensor([NAN]), torch.tensor([NAN]), None),
        (torch.tensor([NAN]), torch.tensor([1.0]), (1, INF)),
        (torch.tensor([INF]), torch.tensor([1.0]), (1, INF)),
        (torch.tensor([INF, 1.0]), torch.tensor([INF, 2.0]), (1, 1.0)),
        (torch.tensor([1, -5]), torch.tensor([1, 4]), (1, 9.0)),
        (torch.tensor([True]), torch.tensor([False]), (1, 1.0)),
        (torch.tensor([3 + 4j]), torch.tensor([0j]), (1, 5.0)),
        (torch.tensor([2.0]).bfloat16(), torch.tensor([3.0]).bfloat16(), (1, 1.0)),
        (torch.arange(50.0), torch.arange(50.0) * 2, (49, 49.0)),
        (torch.empty(0, 3), torch.empty(0, 3), None),
    ],
)
def test_values(kit, tmp_path, monkeypatch, left, right, expected):
    monkeypatch.setattr(module, "_PIECE_BYTES", 28)
    store = kit.store_at(tmp_path)
    for step, tensor in enumerate((left, right)):
        dtype = kit.dtype_name(tensor.dtype)
        one = TensorSpec(fqn="t", key="fp32", shape=tuple(tensor.shape), dtype=dtype)
        kit.save_state(store, step, [(one, tensor)])
    with store.open(0) as first, store.open(1) as second:
        found = [(one.num_elements, one.largest) for one in different_values(first, second)]
    assert found == ([] if expected is None else [expected])


def test_raw_bytes_are_those_of_the_tensor(kit, tmp_path):
    store = kit.store_at(tmp_path)
    state = kit.sample_state()
    kit.run_ranks(3, lambda ranks: kit.save_state(store, 1, state, ranks))
    with store.open(1) as reader:
        for one, tensor in state:
            raw = reader.read_raw(one.fqn, one.key, 0, one.numel)
            assert bytes(raw) == kit.bits(tensor)
        with pytest.raises(ValueError, match="not within"):
            reader.read_raw("scale", "fp32", 0, 2)
