import pytest
import torch

from checkpointing import Fragment, TensorSpec, dtype_name, torch_dtype
from checkpointing.format.tensor_spec import ITEMSIZES_BYTES


def spec(**changes):
    return TensorSpec(**{"fqn": "a.b", "key": "fp32", "shape": (3, 4), "dtype": "F32", **changes})


def test_derived_numbers():
    assert (spec().numel, spec().itemsize, spec().size_bytes) == (12, 4, 48)
    assert spec().name == "fp32/a.b"
    assert spec(shape=()).numel == 1
    assert spec(shape=(0, 4)).numel == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fqn": ""}, "empty fqn"),
        ({"fqn": "\ud800"}, "not valid Unicode"),
        ({"key": "a/b"}, "not a word"),
        ({"key": ""}, "not a word"),
        ({"shape": (2, -1)}, "negative dimension"),
        ({"dtype": "float32"}, "choose from"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        spec(**changes)


@pytest.mark.parametrize("name", sorted(ITEMSIZES_BYTES))
def test_dtypes_agree_with_torch(name):
    dtype = torch_dtype(name)
    assert dtype_name(dtype) == name
    assert torch.empty(1, dtype=dtype).element_size() == ITEMSIZES_BYTES[name]


def test_unknown_dtypes():
    with pytest.raises(ValueError, match="complex128"):
        dtype_name(torch.complex128)
    with pytest.raises(ValueError, match="Q4"):
        torch_dtype("Q4")


@pytest.mark.parametrize(
    ("start", "end", "data", "message"),
    [
        (0, 13, torch.zeros(13), "not within its 12"),
        (5, 4, torch.zeros(0), "not within"),
        (0, 4, torch.zeros(3), r"shape \(3,\)"),
        (0, 4, torch.zeros(2, 2), r"shape \(2, 2\)"),
        (0, 4, torch.zeros(8)[::2], "contiguous"),
        (0, 4, torch.zeros(4).double(), "float64"),
    ],
)
def test_fragment_refuses(start, end, data, message):
    with pytest.raises(ValueError, match=message):
        Fragment(spec=spec(), start=start, end=end, data=data)
