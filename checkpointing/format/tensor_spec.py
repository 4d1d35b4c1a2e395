"""What one tensor of the neutral state is, without its values and without torch."""

import math
import re
from dataclasses import dataclass
from functools import cached_property

# The names that safetensors gives to dtypes, and the bytes per element.
ITEMSIZES_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}

_NAME_OF_DTYPE = re.compile(r"[A-Z]{1,4}[0-9]{1,3}(_[A-Z0-9]+)*")
"""As safetensors names dtypes, those too that it may come to know."""
_KEY = re.compile(r"[A-Za-z0-9_.-]+")


class UnsupportedDtypeError(ValueError):
    """A sound file holds a tensor of a dtype that a checkpoint here cannot hold."""


def require_supported(dtype: object, fqn: str, where: object) -> None:
    """Refuse a dtype that safetensors knows, or may know, and that is not supported here.

    Raises:
        UnsupportedDtypeError: F4 and F6, whose elements are no whole bytes, and any other.
    """
    if dtype in ITEMSIZES_BYTES or not isinstance(dtype, str):
        return
    if _NAME_OF_DTYPE.fullmatch(dtype):
        raise UnsupportedDtypeError(
            f"{where} holds {fqn} as {dtype}, and that dtype is not supported. Convert the tensor "
            f"to one of {', '.join(sorted(ITEMSIZES_BYTES))}."
        )


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One tensor of the neutral state.

    Raises:
        ValueError: For an empty or badly encoded fqn, a key that is not a plain word, a negative
            dimension, or a dtype that safetensors does not know.
    """

    fqn: str
    """The dotted name of the parameter or buffer; any characters."""

    key: str
    """Which tensor of it: fp32 (master), exp_avg, param (frozen, own dtype), buffer, ..."""

    shape: tuple[int, ...]
    """The full shape, whatever part a rank holds; () is a scalar of one element."""

    dtype: str
    """The safetensors name: F32, BF16, I64, BOOL, ..."""

    def __post_init__(self) -> None:
        if not self.fqn:
            raise ValueError(f"a tensor with key={self.key!r} has an empty fqn.")
        try:
            self.fqn.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"fqn={self.fqn!r} is not valid Unicode.") from error
        if not _KEY.fullmatch(self.key):
            raise ValueError(f"key={self.key!r} of {self.fqn} is not a word such as exp_avg.")
        if any(dim < 0 for dim in self.shape):
            raise ValueError(f"{self.name} has the shape {self.shape}, with a negative dimension.")
        if self.dtype not in ITEMSIZES_BYTES:
            known = ", ".join(sorted(ITEMSIZES_BYTES))
            raise ValueError(f"{self.name} has the dtype {self.dtype!r}; choose from {known}.")

    # Made once: a save asks for them several times of each of thousands of tensors.

    @cached_property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """The bytes per element."""
        return ITEMSIZES_BYTES[self.dtype]

    @property
    def size_bytes(self) -> int:
        """The bytes of the whole tensor."""
        return self.numel * self.itemsize

    @cached_property
    def name(self) -> str:
        """The key and the fqn, such as "fp32/layers.0.weight"; unique in a checkpoint."""
        return f"{self.key}/{self.fqn}"
