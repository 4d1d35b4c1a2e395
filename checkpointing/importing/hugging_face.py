"""safetensors as Hugging Face lays them out: one file, or several with an index."""

import json
from pathlib import Path
from typing import Any

import torch

from ..errors import DamagedCheckpointError
from ..files import Files
from ..fragment import torch_dtype
from ..ranges import Range, find_cover_problem
from ..spec import TensorSpec
from ..tensor_bytes import byte_view
from ..whole_file import read_whole, reading
from .source import WEIGHT, Foreign, Source

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100 * 1000 * 1000
"""The format's own limit."""


def open_safetensors(folder: Path, files: Files, *, prefix: str | None = None) -> Source:
    """Understand a folder of safetensors files; every file in it counts.

    Args:
        folder: Holds the files, and the index if there is one.
        files: How to reach the disk.
        prefix: Only names that begin so are taken, without it; None: all.

    Raises:
        DamagedCheckpointError: If a file is damaged, or one that the index names is missing.
    """
    names = [name for name in files.listdir(folder) if name.endswith(".safetensors")]
    prefix = prefix or ""
    tensors: dict[str, Foreign] = {}
    ignored: list[str] = []
    for name in names:
        for one in _tensors_of(folder / name, files):
            if not one.spec.fqn.startswith(prefix):
                ignored.append(one.spec.fqn)
                continue
            fqn = one.spec.fqn.removeprefix(prefix)
            if fqn in tensors:
                raise DamagedCheckpointError(folder / name, f"{fqn} is in two files")
            spec = TensorSpec(fqn=fqn, key=WEIGHT, shape=one.spec.shape, dtype=one.spec.dtype)
            tensors[fqn] = Foreign(spec=spec, read=one.read)
    _require_all_of_the_index(folder, files, names)
    return Source(
        kind="Hugging Face safetensors",
        tensors=tuple(tensors.values()),
        ignored=tuple(sorted(ignored)),
    )


def _require_all_of_the_index(folder: Path, files: Files, names: list[str]) -> None:
    for index in (n for n in files.listdir(folder) if n.endswith(".safetensors.index.json")):
        path = folder / index
        try:
            wanted = set(json.loads(read_whole(path, files))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedCheckpointError(path, f"is not an index: {error!r}") from error
        if missing := sorted(str(name) for name in wanted - set(names)):
            raise DamagedCheckpointError(path, f"names {missing[0]}, which is not there")


def _tensors_of(path: Path, files: Files) -> list[Foreign]:
    with reading(path):
        size_bytes = files.size(path)
    lead = _content(path, files, 0, _LENGTH_BYTES)
    header_bytes = int.from_bytes(lead, "little")
    if header_bytes > min(_MAX_HEADER_BYTES, size_bytes - _LENGTH_BYTES):
        raise DamagedCheckpointError(path, f"says that its header has {header_bytes} bytes")
    start = _LENGTH_BYTES + header_bytes
    try:
        header = json.loads(_content(path, files, _LENGTH_BYTES, header_bytes))
        found = [
            _entry(fqn, value, path, files, start)
            for fqn, value in header.items()
            if fqn != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DamagedCheckpointError):
            raise
        raise DamagedCheckpointError(path, f"has no safetensors header: {error!r}") from error
    ranges = [(begin, end) for _, begin, end in found if end > begin]
    if problem := find_cover_problem(ranges, Range(start, size_bytes), "bytes"):
        raise DamagedCheckpointError(path, problem)
    return [foreign for foreign, _, _ in found]


def _entry(fqn: str, value: Any, path: Path, files: Files, start: int) -> tuple[Foreign, int, int]:
    begin, end = value["data_offsets"]
    spec = TensorSpec(fqn=fqn, key=WEIGHT, shape=tuple(value["shape"]), dtype=value["dtype"])
    if any(type(n) is not int for n in (begin, end, *spec.shape)) or end - begin != spec.size_bytes:
        raise ValueError(f"{fqn} has {end - begin} bytes instead of {spec.size_bytes}")

    def read() -> torch.Tensor:
        out = torch.empty(spec.numel, dtype=torch_dtype(spec.dtype))
        _fill(path, files, start + begin, byte_view(out))
        return out

    return Foreign(spec=spec, read=read), start + begin, start + end


def _content(path: Path, files: Files, offset: int, size_bytes: int) -> bytes:
    content = bytearray(size_bytes)
    _fill(path, files, offset, memoryview(content))
    return bytes(content)


def _fill(path: Path, files: Files, offset: int, out: memoryview) -> None:
    with reading(path):
        fd = files.open(path)
        try:
            num_read = files.read_all(fd, out, offset)
        finally:
            files.close(fd)
    if num_read < len(out):
        raise DamagedCheckpointError(path, f"ends at byte {offset + num_read}: it was cut off")
