"""The manifest: what a checkpoint consists of, proved when it is written and when it is read.

A `Manifest` that was parsed is sound in itself: every element of every tensor lies in exactly one
chunk, the chunks of a file tile its data without a hole, and the text is unaltered (SHA-256).
Whether the files agree is for `store.py` (sizes) and `shard_reader.py` (checksums).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from .names import is_object, object_attempt
from .strict_json import JSON
from .tensor_spec import TensorSpec

MANIFEST_NAME = "manifest.json"
FORMAT_NAME = "relaunch-checkpoint"
FORMAT_VERSION = 4
"""2: a chunk is four numbers, and names its file by its place among the files.
3: a file may be an object, which lies beside the checkpoints and which several of them name.
4: a tensor may lie in a file that is not the run's; without one, version 3 is written."""

OWN_FILES_VERSION = 3
"""Of a checkpoint that names no tensor in files of others."""

READ_VERSIONS = (2, 3, 4)

BLOCK_BYTES = 4 * 1024 * 1024
"""The bytes under one CRC-32, and the largest amount read to use one element."""

MAX_TEXT_BYTES = 1 << 30
"""Of a manifest; that of 1,024 ranks that cut 3,000 tensors each has an eighth of it."""

MAX_BLOCK_BYTES = 256 * 1024 * 1024
"""A reader makes room for one block before it knows that the file deserves it."""


class Chunk(NamedTuple):
    """A flat range of one tensor, and where its bytes lie.

    A tuple: a thousand ranks make millions of them.
    """

    file: str
    """The file's name inside the checkpoint's folder; of an object, beside it; or the name of a
    `NamedTensor`."""

    start: int
    """First element of the row-major flattened tensor."""

    end: int
    """One past the last element."""

    offset: int
    """First byte in the file; in a `NamedTensor`, of the tensor."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor and its chunks, ascending; an empty tensor has none."""

    spec: TensorSpec
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One shard: its size, and the CRC-32 (zlib) of each of its blocks, the header included."""

    name: str
    size_bytes: int
    block_bytes: int
    crc32: tuple[int, ...]

    @property
    def is_object(self) -> bool:
        """Whether it lies beside the checkpoints, and others may name it too."""
        return is_object(self.name)

    def block_range(self, block: int, count: int = 1) -> tuple[int, int]:
        """Return the first byte of so many blocks from one on, and one past their last."""
        start = block * self.block_bytes
        return start, min(start + count * self.block_bytes, self.size_bytes)


@dataclass(frozen=True, kw_only=True)
class NamedTensor(StoredFile):
    """One whole tensor of a safetensors file, and the CRC-32 of each of its blocks.

    Its bytes are counted from the first of the tensor: where in the file that is may change.
    """

    path: str
    """The file, absolute, as it was called when it was named."""

    tensor: str
    """The tensor's name in the file."""

    @classmethod
    def of(
        cls, *, path: str, tensor: str, size_bytes: int, block_bytes: int, crc32: tuple[int, ...]
    ) -> Self:
        """Return it under the name that chunks know it by."""
        return cls(
            name=f"{path}#{tensor}",
            path=path,
            tensor=tensor,
            size_bytes=size_bytes,
            block_bytes=block_bytes,
            crc32=crc32,
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json."""

    step: int
    """The optimizer step at which the state was taken."""

    token: str
    """Names the attempt to save; random."""

    created_by: Mapping[str, JSON]
    """Whatever the caller says about itself (versions, world size, strategy)."""

    state: Mapping[str, JSON]
    """Whatever the caller needs besides tensors."""

    tensors: tuple[StoredTensor, ...]
    files: tuple[StoredFile, ...]

    named: tuple[NamedTensor, ...] = ()
    """What lies in files that are not the run's, which nothing here writes or deletes."""

    @property
    def size_bytes(self) -> int:
        """The bytes of all that it takes: shards, objects, and tensors in files of others."""
        return sum(file.size_bytes for file in (*self.files, *self.named))

    @property
    def named_bytes(self) -> int:
        """The bytes of the tensors that lie in files of others."""
        return sum(one.size_bytes for one in self.named)

    @property
    def named_paths(self) -> tuple[str, ...]:
        """The files of others, each once."""
        return tuple(dict.fromkeys(one.path for one in self.named))

    @property
    def own_bytes(self) -> int:
        """The bytes of the shards, without the objects, which others may name too."""
        return sum(file.size_bytes for file in self.files if not file.is_object)

    @property
    def written_bytes(self) -> int:
        """The bytes that the attempt to save has written, without those that were there before."""
        there = (f for f in self.files if f.is_object and object_attempt(f.name) != self.token)
        return self.size_bytes - self.named_bytes - sum(file.size_bytes for file in there)

    @property
    def objects(self) -> frozenset[str]:
        """The names of the objects."""
        return frozenset(file.name for file in self.files if file.is_object)

    def specs(self) -> list[TensorSpec]:
        """Return what each tensor is, in the order in which they were saved."""
        return [tensor.spec for tensor in self.tensors]
