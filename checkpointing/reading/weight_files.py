"""Where the tensors are that a checkpoint names in safetensors files which are not its own.

Such a file may have been moved, or rewritten with its tensors in another order: each is looked
for by its name, and its blocks are checked like those of any other file. Without torch.
"""

import json
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from ..errors import DamagedCheckpointError, NamedFileError
from ..format.manifest import NamedTensor
from ..storage.local_files import Files
from ..storage.locations import publishing_of
from ..storage.objects import who_names
from ..storage.small_files import reading
from .shard_reader import ShardReader

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100 * 1000 * 1000
"""The format's own limit."""
_MAX_FILES_KNOWN = 512


class _LinkedFiles(Files):
    """Follows links: a download cache keeps its files behind them."""

    def open(self, path: PurePath) -> int:
        return super().open(Path(path).resolve())


LINKED_FILES = _LinkedFiles()


def open_named(named: NamedTensor, given: Sequence[Path]) -> ShardReader:
    """Return a reader of a tensor, from the first file that has it; its bytes are not read yet.

    Args:
        named: The tensor.
        given: Files to look into before the one in which it was named.

    Raises:
        DamagedCheckpointError: None has it; says so of the one in which it was named.
    """
    problem = ""
    for path in (*given, Path(named.path)):
        try:
            begin, size_bytes = _place_of(named.tensor, path)
        except DamagedCheckpointError as error:
            problem = error.problem
            continue
        if size_bytes == named.size_bytes:
            return ShardReader(path, named, LINKED_FILES, begin=begin)
        problem = f"has {size_bytes} bytes for it instead of {named.size_bytes}"
    raise DamagedCheckpointError(Path(named.path), problem)


@contextmanager
def naming_what_it_is_for(named: NamedTensor, folder: PurePath, files: Files) -> Iterator[None]:
    """Return which checkpoints need a changed file, and what to do.

    Args:
        named: The tensor that is read.
        folder: The checkpoint's.
        files: How that is reached.

    Raises:
        NamedFileError: In place of a DamagedCheckpointError.
    """
    try:
        yield
    except DamagedCheckpointError as error:
        needs = needs_of(named.path, folder, files)
        raise NamedFileError(error.path, f"{named.tensor}: {error.problem}. {needs}") from error


def needs_of(path: str, folder: PurePath, files: Files) -> str:
    """Return which checkpoints need a file of others, and what to do where it is not as it was."""
    manifests = publishing_of(folder.parent, files).manifests()
    return (
        f"{who_names(path, manifests, files)}. Put the file back as it was, or pass where it still "
        "is so: weights= to resume, --weights to `relaunch checkpoint`"
    )


def _place_of(tensor: str, path: Path) -> tuple[int, int]:
    """Return where a tensor begins in a file, and its bytes."""
    with reading(path):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DamagedCheckpointError(path, "is not a regular file")
        header = _header(path, status.st_size, status.st_mtime_ns)
    if tensor not in header:
        raise DamagedCheckpointError(path, "has no tensor of this name")
    return header[tensor]


@lru_cache(maxsize=_MAX_FILES_KNOWN)
def _header(path: Path, size_bytes: int, modified_ns: int) -> dict[str, tuple[int, int]]:
    """Return of each tensor its first byte in the file, and its bytes; read once for each state."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if not 0 < header_bytes <= min(_MAX_HEADER_BYTES, size_bytes - _LENGTH_BYTES):
            raise DamagedCheckpointError(path, f"says that its header has {header_bytes} bytes")
        text = file.read(header_bytes)
    found: dict[str, tuple[int, int]] = {}
    try:
        header: dict[str, Any] = json.loads(text)
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                if not (type(begin) is type(end) is int and 0 <= begin <= end):
                    raise ValueError(f"{name} lies at {entry['data_offsets']!s:.40}")
                found[name] = (_LENGTH_BYTES + header_bytes + begin, end - begin)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpointError(path, f"has no safetensors header: {error!r:.80}") from error
    return found
