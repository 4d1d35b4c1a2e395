"""The layout of a shard: a safetensors file whose header fills whole pages. Pure.

https://huggingface.co/docs/safetensors/index#format: eight bytes with the header's length, the
header as JSON, which may end in spaces, and the raw little-endian bytes without holes.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

HEADER_ALIGN_BYTES = 4096
_LENGTH_BYTES = 8

SHARD_NAME = re.compile(r"r[0-9]{5,}(-[0-9a-f]{16})?\.safetensors")
_RANK = re.compile(r"r([0-9]+)")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor in a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


def shard_name(rank: int, token: str = "") -> str:
    """Return the name of the file that a rank writes.

    Args:
        rank: The rank.
        token: Of the attempt, where files of several attempts may meet in one folder.
    """
    return f"r{rank:05d}{token and '-' + token}.safetensors"


def shard_rank(name: str) -> int | None:
    """Return which rank wrote a file; None if it is no shard."""
    match = _RANK.match(name) if SHARD_NAME.fullmatch(name) else None
    return int(match[1]) if match else None


def encode_header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    """Return all bytes of the file before its data, a multiple of 4096 of them.

    Args:
        entries: In the order of their bytes in the file. Larger items come first, or the readers
            that map the file find tensors at addresses that are not a multiple of their item.
        metadata: Goes under "__metadata__".
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    for entry in entries:
        end = begin + entry.size_bytes
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    padding = -(_LENGTH_BYTES + len(text)) % HEADER_ALIGN_BYTES
    text += b" " * padding
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def data_offsets(header_bytes: int, entries: Iterable[Entry]) -> list[int]:
    """Return where each entry's bytes start, counted from the start of the file."""
    offsets = []
    offset = header_bytes
    for entry in entries:
        offsets.append(offset)
        offset += entry.size_bytes
    return offsets
