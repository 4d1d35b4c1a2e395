"""What `torch.save` has written: its data, and its tensors by reference, read when asked for.

The file is a ZIP archive of uncompressed members: `data.pkl`, and `data/<key>` for each storage.
"""

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import DamagedCheckpointError
from ..format.fragment import torch_dtype
from ..format.tensor_spec import ITEMSIZES_BYTES
from ..storage.local_files import Files
from ..storage.small_files import reading
from .plain_pickle import Allowed, Name, Record, parse_pickle, require_key

MAX_PICKLE_BYTES = 1 << 30
_MAX_DIMENSIONS = 64
_MAX_BITS = 63

DTYPES: Mapping[str, str] = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "complex64": "C64",
}
"""torch's names to those of this format."""

_STORAGES = {
    "BoolStorage": "BOOL",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "ShortStorage": "I16",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "IntStorage": "I32",
    "FloatStorage": "F32",
    "LongStorage": "I64",
    "DoubleStorage": "F64",
    "ComplexFloatStorage": "C64",
}


@dataclass(frozen=True, kw_only=True)
class StorageRef:
    """A member of the archive."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True, kw_only=True)
class TensorRef:
    """A tensor of the archive, not yet read."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """The safetensors name."""
        return self.storage.dtype

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


def dimensions(value: Any) -> tuple[int, ...]:
    """Return a shape, strides or offsets: a few whole numbers from 0 on.

    Raises:
        ValueError: It is something else.
    """
    is_short = isinstance(value, tuple | list) and len(value) <= _MAX_DIMENSIONS
    if not is_short or not all(
        type(n) is int and n >= 0 and n.bit_length() <= _MAX_BITS for n in value
    ):
        raise ValueError("a tensor of impossible shape")
    return tuple(value)


def _storage(described: Any) -> StorageRef:
    if not isinstance(described, tuple) or len(described) != 5 or described[0] != "storage":
        raise ValueError("a storage that is not described as torch does")
    _, kind, key, _, numel = described
    dtype = _STORAGES.get(kind.name.rpartition(".")[2]) if isinstance(kind, Name) else None
    if dtype is None or not isinstance(key, str) or not isinstance(numel, int) or numel < 0:
        raise ValueError("a storage of an unknown kind")
    return StorageRef(key=key, dtype=dtype, numel=numel)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> TensorRef:
    (offset,), shape, stride = dimensions((offset,)), dimensions(shape), dimensions(stride)
    if not isinstance(storage, StorageRef) or len(shape) != len(stride):
        raise ValueError("a tensor of impossible shape")
    if math.prod(shape) > storage.numel:
        raise ValueError(f"an expanded tensor: {math.prod(shape)} elements of {storage.numel}")
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if math.prod(shape) and last >= storage.numel:
        raise ValueError(f"a tensor that reaches beyond its storage {storage.key}")
    return TensorRef(storage=storage, offset=offset, shape=shape, stride=stride)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _of_a_subclass(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """Stand for a tensor of a subclass, or with attributes of its own: the tensor itself."""
    if not isinstance(function, Name) or function.name != "torch._utils._rebuild_tensor_v2":
        raise ValueError("a tensor of a subclass that is rebuilt in its own way")
    return _tensor(*arguments)


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    if isinstance(pairs, dict):
        return dict(pairs)
    if not isinstance(pairs, list | tuple):
        raise ValueError("a mapping that is made of no pairs")
    return {require_key(key): value for key, value in pairs}


def plain_set(values: Any = ()) -> frozenset[Any]:
    """Stand for a set's constructor.

    Raises:
        ValueError: What it holds is of no plain type.
    """
    if not isinstance(values, list | tuple | set | frozenset):
        raise ValueError("a set of something that is no container")
    return frozenset(map(require_key, values))


TENSOR_NAMES: Allowed = {
    "persistent_id": _storage,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_a_subclass,
    "torch.nn.parameter.Parameter": None,
    "torch.Tensor": None,
    "torch.Size": lambda values=(): dimensions(values),
    "collections.OrderedDict": _ordered,
    "torch.device": None,
    **{f"torch.{name}": None for name in (*_STORAGES, *DTYPES)},
}
"""What a pickle of tensors, numbers and containers may name."""


class TorchFile:
    """An open file that `torch.save` has written, or a part of a file that is such a one.

    Raises:
        DamagedCheckpointError: Naming the file and what is wrong, a refused name included.
    """

    def __init__(
        self,
        path: Path,
        files: Files,
        *,
        allowed: Allowed = TENSOR_NAMES,
        offset: int = 0,
        size_bytes: int | None = None,
    ) -> None:
        self.path = path
        with reading(path):
            whole_bytes = files.size(path)
            length = whole_bytes - offset if size_bytes is None else size_bytes
            if offset < 0 or length < 0 or offset + length > whole_bytes:
                raise DamagedCheckpointError(path, f"has no bytes [{offset}, {offset + length})")
            self._source = _Part(path, files, offset, length)
        try:
            self._archive = self._opened()
            self.data = self._parsed(allowed)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def read(self, tensor: TensorRef) -> torch.Tensor:
        """Return a tensor's elements in row-major order, [numel].

        Raises:
            DamagedCheckpointError: If its bytes are missing, or fail the archive's checksum.
        """
        storage = tensor.storage
        wanted_bytes = storage.numel * ITEMSIZES_BYTES[storage.dtype]
        content = self._member(f"data/{storage.key}", wanted_bytes)
        if len(content) != wanted_bytes:
            raise DamagedCheckpointError(
                self.path,
                f"its storage {storage.key} has {len(content)} bytes, not {wanted_bytes}",
            )
        flat = (
            torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0)
        )
        flat = (
            flat.view(torch_dtype(storage.dtype))
            if content
            else flat.to(torch_dtype(storage.dtype))
        )
        return flat.as_strided(tensor.shape, tensor.stride, tensor.offset).reshape(-1).contiguous()

    def _opened(self) -> zipfile.ZipFile:
        try:
            archive = zipfile.ZipFile(io.BufferedReader(self._source))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise DamagedCheckpointError(
                self.path, f"is not what torch.save writes (a ZIP archive): {error}"
            ) from error
        folders = {name.partition("/")[0] for name in archive.namelist()}
        if len(folders) != 1:
            raise DamagedCheckpointError(self.path, "is not what torch.save writes")
        self._folder = folders.pop()
        return archive

    def _parsed(self, allowed: Allowed) -> Any:
        order = self._member("byteorder", 16) if self._has("byteorder") else b"little"
        if order != b"little":
            raise DamagedCheckpointError(self.path, f"has the byte order {order!r}; needs little")
        return parse_pickle(self._member("data.pkl", MAX_PICKLE_BYTES), allowed, path=self.path)

    def _has(self, name: str) -> bool:
        return f"{self._folder}/{name}" in self._archive.namelist()

    def _member(self, name: str, most_bytes: int) -> bytes:
        most_bytes = min(most_bytes, self._source.length)
        try:
            info = self._archive.getinfo(f"{self._folder}/{name}")
            # A compressed member may be a bomb; torch never compresses. One that says to be larger
            # than its archive would be given that memory before its end is found.
            is_plain = info.compress_type == zipfile.ZIP_STORED
            if not is_plain or not info.compress_size == info.file_size <= most_bytes:
                raise DamagedCheckpointError(self.path, f"its {name} is compressed or too large")
            return self._archive.read(info)
        # A RuntimeError is about encryption, and a version of ZIP that there is not yet.
        except (KeyError, zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError) as error:
            if isinstance(error, DamagedCheckpointError):
                raise
            raise DamagedCheckpointError(self.path, f"its {name} is unreadable: {error}") from error


class _Part(io.RawIOBase):
    """Bytes [offset, offset + length) of a file, by way of the seam."""

    def __init__(self, path: Path, files: Files, offset: int, length: int) -> None:
        self._files = files
        self._offset = offset
        self.length = length
        self._at = 0
        self._fd = files.open(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.length}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view = view[: max(0, self.length - self._at)]
        num_read = self._files.read_all(self._fd, view, self._offset + self._at)
        self._at += num_read
        return num_read

    def close(self) -> None:
        if not self.closed:
            self._files.close(self._fd)
        super().close()


def constant(name: str) -> Any:
    """Return a maker that stands for a function whose result is only a word."""
    return lambda *arguments: Record(name=name, arguments=arguments)
