"""Values come back from JSON with their type, dtype and value."""

import json
import math

import numpy as np
import pytest
import torch

from strategies.parallel.state.typed_values import (
    UnsavableError,
    decode,
    encode,
    encode_or_describe,
    is_opaque,
    stored_keys,
)


def through(value: object) -> object:
    return decode(json.loads(json.dumps(encode(value, "it"), allow_nan=False)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        2**80,
        0.1,
        math.inf,
        -math.inf,
        "adam",
        [1, 2.5],
        (0.9, (0.99, None)),
        {"a": 1, 3: (2.0,)},
        torch.Size([2, 3]),
        torch.bfloat16,
        torch.device("cpu"),
    ],
)
def test_values_keep_their_type(value: object) -> None:
    found = through(value)
    assert type(found) is type(value)
    assert found == value


def test_not_a_number_stays_none() -> None:
    found = through(math.nan)
    assert isinstance(found, float)
    assert math.isnan(found)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(5, dtype=torch.int64),
        torch.tensor(2**53 + 1, dtype=torch.int64),
        torch.tensor(0.1, dtype=torch.float64),
        torch.tensor(0.1, dtype=torch.float32),
        torch.tensor([0.1, math.inf], dtype=torch.bfloat16),
        torch.tensor([[True, False]]),
        torch.zeros(0, 3),
        torch.tensor(3, dtype=torch.uint8),
        torch.ones(2, dtype=torch.float8_e4m3fn),
    ],
)
def test_small_tensors_keep_dtype_shape_and_value(tensor: torch.Tensor) -> None:
    found = through(tensor)
    assert isinstance(found, torch.Tensor)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(found.double(), tensor.double())


def test_numbers_of_numpy_stay_numpys() -> None:
    found = through(np.float32(0.1))
    assert type(found) is np.float32
    assert found == np.float32(0.1)


def test_large_tensors_are_stored_where_that_is_possible() -> None:
    large, kept = torch.arange(40.0).view(8, 5), {}
    value = {"pair": [large, torch.zeros(())], "n": 3}
    encoded = encode(value, "GG", store=lambda tensor, key: kept.setdefault(key, tensor))
    assert stored_keys(encoded) == ["GG.pair.0"] == list(kept)
    found = decode(json.loads(json.dumps(encoded)), read=kept.__getitem__)
    assert torch.equal(found["pair"][0], large)
    with pytest.raises(UnsavableError, match=r"GG.pair.0 is a tensor of shape \(8, 5\)"):
        encode(value, "GG")


class Foreign:
    pass


@pytest.mark.parametrize(
    "value", [Foreign(), lambda: 3, {1, 2}, torch.nn.Parameter(torch.ones(1)), 1j]
)
def test_what_cannot_be_saved_is_named(value: object) -> None:
    with pytest.raises(UnsavableError, match="noise"):
        encode(value, "noise")
    assert is_opaque(encode_or_describe(value, "noise"))


def test_where_a_counter_was_is_known_beside_an_accelerator() -> None:
    owner = torch.device("meta")
    beside = encode(torch.zeros((), device="cpu"), "step", owner=owner)
    assert beside == {"tensor": {"dtype": "F32", "shape": [], "values": [0.0], "at": "host"}}
    assert decode(beside, device=owner, counters=owner).device.type == "cpu"
    unknown = encode(torch.zeros(()), "step")
    assert decode(unknown, device=owner, counters=owner).device.type == "meta"
    assert decode(unknown, device=owner).device.type == "cpu"
