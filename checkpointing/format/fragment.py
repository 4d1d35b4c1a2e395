"""A part of a tensor that one rank holds, and the dtypes that tensors and files share."""

from dataclasses import dataclass

import torch

from .tensor_spec import TensorSpec

_TORCH_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
    "C64": torch.complex64,
}
_NAMES = {dtype: name for name, dtype in _TORCH_DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """Return the safetensors name of a torch dtype, such as "BF16".

    Raises:
        ValueError: If safetensors cannot hold this dtype.
    """
    if dtype not in _NAMES:
        known = ", ".join(str(known) for known in _NAMES)
        raise ValueError(f"{dtype} cannot be saved; convert the tensor to one of {known}.")
    return _NAMES[dtype]


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of a safetensors name.

    Raises:
        ValueError: If there is no such name.
    """
    if name not in _TORCH_DTYPES:
        raise ValueError(f"dtype {name!r} is unknown; choose from {', '.join(_TORCH_DTYPES)}.")
    return _TORCH_DTYPES[name]


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """The elements [start, end) of a tensor, held by this rank.

    Raises:
        ValueError: If the range is outside the tensor, or the data is not of its length and dtype.
    """

    spec: TensorSpec
    """The whole tensor."""

    start: int
    """First element of the row-major flattened tensor."""

    end: int
    """One past the last element; equal to start if this rank holds nothing."""

    data: torch.Tensor
    """[end - start], contiguous, on any device. A live view: read only while it is written."""

    is_steady: bool = False
    """Whether nothing but the next update of the parameters changes the data, so that a save in
    the background may copy it until then."""

    def __post_init__(self) -> None:
        name, data = self.spec.name, self.data
        if not 0 <= self.start <= self.end <= self.spec.numel:
            raise ValueError(
                f"{name}: [{self.start}, {self.end}) is not within its {self.spec.numel} elements."
            )
        if data.shape != (self.end - self.start,) or not data.is_contiguous():
            raise ValueError(
                f"{name}: the data of [{self.start}, {self.end}) has the shape "
                f"{tuple(data.shape)}; it needs ({self.end - self.start},), contiguous."
            )
        if data.dtype != torch_dtype(self.spec.dtype):
            raise ValueError(f"{name}: the data is {data.dtype}, the tensor {self.spec.dtype}.")

    @property
    def size_bytes(self) -> int:
        """The bytes of the data."""
        return (self.end - self.start) * self.spec.itemsize
