"""safetensors as Hugging Face lays them out: one file, or several with an index."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import DamagedCheckpointError
from ..format.fragment import torch_dtype
from ..format.hugging_face_files import is_index, weight_files
from ..format.ranges import Range, find_cover_problem
from ..format.tensor_bytes import byte_view
from ..format.tensor_spec import TensorSpec, UnsupportedDtypeError, require_supported
from ..storage.local_files import Files
from ..storage.small_files import read_whole, reading
from .boxes import extent, require_cover, whole_of
from .source import WEIGHT, Foreign, Source

_BOXES = "DCP_SHARDING_INFO"
"""Under which torch notes, in a file's metadata, where its tensors begin in the whole ones."""
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100 * 1000 * 1000
"""The format's own limit."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A tensor of one file: whole, or a box of one that several ranks have written."""

    foreign: Foreign
    path: Path
    offsets: tuple[int, ...] | None
    """None: it is whole."""

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.foreign.spec.shape


@dataclass(frozen=True, kw_only=True)
class _Box:
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


def open_safetensors(folder: Path, files: Files, *, prefix: str | None = None) -> Source:
    """Understand a folder of safetensors files: those that transformers would read.

    Without an index and a file of the usual name every file counts; torch's
    `HuggingFaceStorageWriter` leaves it so, each rank with its boxes of the tensors.

    Args:
        folder: Holds the files, and the index if there is one.
        files: How to reach the disk.
        prefix: Only names that begin so are taken, without it; None: all.

    Raises:
        DamagedCheckpointError: If a file is damaged, or one that the index names is missing.
        ValueError: If a tensor's dtype is not supported, or there are several models.
    """
    names = files.listdir(folder)
    chosen = weight_files(names, lambda name: read_whole(folder / name, files))
    if missing := [name for name in chosen if name not in names]:
        index = next(name for name in sorted(names) if is_index(name))
        raise DamagedCheckpointError(folder / index, f"names {missing[0]}, which is not there")
    prefix = prefix or ""
    parts: dict[str, list[_Part]] = {}
    for name in chosen:
        for part in _parts_of(folder / name, files):
            parts.setdefault(part.foreign.spec.fqn, []).append(part)
    taken = {fqn: found for fqn, found in parts.items() if fqn.startswith(prefix)}
    return Source(
        kind="Hugging Face safetensors",
        tensors=tuple(_whole(fqn.removeprefix(prefix), found) for fqn, found in taken.items()),
        ignored=tuple(sorted(parts.keys() - taken.keys())),
    )


def _whole(fqn: str, parts: list[_Part]) -> Foreign:
    """Return the tensor that is in one file, or in boxes in several."""
    first = parts[0]
    of = first.foreign.spec
    if first.offsets is None and len(parts) == 1:
        return Foreign(spec=replace(of, fqn=fqn), read=first.foreign.read)
    boxes = [
        _Box(offsets=part.offsets, sizes=part.sizes) for part in parts if part.offsets is not None
    ]
    if len(boxes) < len(parts) or any(part.foreign.spec.dtype != of.dtype for part in parts):
        raise DamagedCheckpointError(parts[-1].path, f"{fqn} is in two files")
    try:
        shape = extent(boxes)
    except ValueError as error:
        raise DamagedCheckpointError(parts[-1].path, f"{fqn}: its chunks do not fit") from error
    require_cover(parts[-1].path, fqn, shape, boxes)

    def read() -> torch.Tensor:
        values = (part.foreign.read() for part in parts)
        return whole_of(shape, torch_dtype(of.dtype), zip(boxes, values, strict=True))

    return Foreign(spec=replace(of, fqn=fqn, shape=shape), read=read)


def _parts_of(path: Path, files: Files) -> list[_Part]:
    with reading(path):
        size_bytes = files.size(path)
    lead = _content(path, files, 0, _LENGTH_BYTES)
    header_bytes = int.from_bytes(lead, "little")
    if header_bytes > min(_MAX_HEADER_BYTES, size_bytes - _LENGTH_BYTES):
        raise DamagedCheckpointError(path, f"says that its header has {header_bytes} bytes")
    start = _LENGTH_BYTES + header_bytes
    try:
        header = json.loads(_content(path, files, _LENGTH_BYTES, header_bytes))
        offsets = _offsets(header.get("__metadata__"))
        _require_supported(path, header)
        found = [
            _entry(fqn, value, path, files, start)
            for fqn, value in header.items()
            if fqn != "__metadata__"
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DamagedCheckpointError | UnsupportedDtypeError):
            raise
        raise DamagedCheckpointError(path, f"has no safetensors header: {error!r}") from error
    ranges = [(begin, end) for _, begin, end in found if end > begin]
    if problem := find_cover_problem(ranges, Range(start, size_bytes), "bytes"):
        raise DamagedCheckpointError(path, problem)
    return [
        _Part(foreign=foreign, path=path, offsets=offsets.get(foreign.spec.fqn))
        for foreign, _, _ in found
    ]


def _offsets(metadata: Any) -> dict[str, tuple[int, ...]]:
    """Return where each tensor begins in the whole one, where torch has noted that."""
    if metadata is None or _BOXES not in metadata:
        return {}
    noted = json.loads(metadata[_BOXES])
    return {fqn: tuple(map(int, one["saved_offsets"])) for fqn, one in noted.items()}


def _require_supported(path: Path, header: Mapping[str, Any]) -> None:
    for fqn, value in header.items():
        if fqn != "__metadata__":
            require_supported(value["dtype"], fqn, path)


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
