"""torch.distributed.checkpoint: `.metadata` (a pickle) and files of concatenated `torch.save`s."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import DamagedCheckpointError
from ..format.fragment import torch_dtype
from ..format.tensor_spec import TensorSpec
from ..storage.local_files import Files
from ..storage.small_files import read_whole, reading
from .boxes import require_cover, whole_of
from .plain_pickle import Allowed, Name, Record, parse_pickle
from .source import WEIGHT, Foreign, Source
from .torch_file import DTYPES, TENSOR_NAMES, TensorRef, TorchFile, constant, dimensions

METADATA_NAME = ".metadata"

_MAX_DEPTH = 100
"""Of dicts in dicts, which DCP has flattened."""
_MODULE = "torch.distributed.checkpoint"
_CLASSES = (
    "Metadata",
    "TensorStorageMetadata",
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "MetadataIndex",
    "TensorProperties",
    "StorageMeta",
    "_MEM_FORMAT_ENCODING",
)
_NAMES: Allowed = {
    **TENSOR_NAMES,
    "persistent_id": None,
    **{f"{_MODULE}.metadata.{name}": None for name in _CLASSES},
    f"{_MODULE}.filesystem._StorageInfo": None,
    "torch.serialization._get_layout": constant("layout"),
    "pathlib.PosixPath": None,
    "pathlib._local.PosixPath": None,
}


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """A box of a tensor, and where it lies."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    at: int
    size_bytes: int


def open_dcp(folder: Path, files: Files, *, prefix: str | None = None) -> Source:
    """Understand a DCP checkpoint.

    Args:
        folder: Holds `.metadata`.
        files: How to reach the disk.
        prefix: What stands before the model's own names, such as "model."; None: found out.

    Raises:
        DamagedCheckpointError: If a file is damaged, or wants to run code.
        ValueError: If the names do not say which tensors are the model's.
    """
    path = folder / METADATA_NAME
    metadata = parse_pickle(read_whole(path, files), _NAMES, path=path)
    try:
        paths = {fqn: _path(keys) for fqn, keys in _planner(metadata).items()}
        chunks = _chunks(metadata)
        specs = _specs(metadata, paths, prefix)
        scalar_names = [
            n for n, (_, spec) in specs.items() if spec.shape == () and spec.key != WEIGHT
        ]
        scalars: dict[str, dict[str, float | int]] = {}
        for name in scalar_names:
            _, spec = specs.pop(name)
            value = _read(folder, files, spec, chunks[name]).item()
            scalars.setdefault(spec.fqn, {})[spec.key] = value
        tensors = [
            Foreign(spec=spec, read=_reader(folder, files, spec, chunks[name]))
            for name, (_, spec) in specs.items()
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(path, f"is not DCP's metadata: {error!r}") from error
    taken = {*specs, *scalar_names}
    return Source(
        kind="torch DCP",
        tensors=tuple(tensors),
        scalars=scalars,
        ignored=tuple(sorted(set(metadata.field("state_dict_metadata")) - taken)),
    )


def _planner(metadata: Any) -> Mapping[str, Any]:
    if not isinstance(metadata, Record) or metadata.name != f"{_MODULE}.metadata.Metadata":
        raise TypeError("no Metadata")
    planned: Mapping[str, Any] | None = metadata.field("planner_data")
    return planned or {fqn: (fqn,) for fqn in metadata.field("state_dict_metadata")}


def _path(keys: Any) -> tuple[str, ...]:
    """Return where a tensor stood in the dicts that were saved."""
    is_short = isinstance(keys, tuple | list) and len(keys) <= _MAX_DEPTH
    if not is_short or not all(isinstance(key, str | int) for key in keys):
        raise TypeError("a path of something else than names")
    return tuple(map(str, keys))


def _specs(
    metadata: Record, paths: Mapping[str, tuple[str, ...]], prefix: str | None
) -> dict[str, tuple[str, TensorSpec]]:
    """Return, by DCP's own name, what each tensor is in the neutral format."""
    described = metadata.field("state_dict_metadata")
    tensors = {
        name: one
        for name, one in described.items()
        if one.name == f"{_MODULE}.metadata.TensorStorageMetadata"
    }
    states = {name: path[-2:] for name in tensors if _is_optimizer_state(path := paths[name])}
    flat = {name: pair for name in tensors if (pair := _flat_state(paths[name])) is not None}
    weights = [name for name in tensors if name not in states and name not in flat]
    prefix = _prefix_of(weights, paths) if prefix is None else prefix
    # A module may be called "state": what is flat is of the optimizer if there is such a weight.
    names = {name.removeprefix(prefix) for name in weights if name.startswith(prefix)}
    states |= {name: (fqn, key) for name, (fqn, key) in flat.items() if fqn in names}
    found = {}
    for name, one in tensors.items():
        if name in states:
            fqn, key = states[name]
        elif name.startswith(prefix):
            fqn, key = name.removeprefix(prefix), WEIGHT
        else:
            continue
        spec = TensorSpec(fqn=fqn, key=key, shape=dimensions(one.field("size")), dtype=_dtype(one))
        found[name] = (name, spec)
    return found


def _is_optimizer_state(path: tuple[str, ...]) -> bool:
    return len(path) >= 3 and path[-3] == "state"


def _flat_state(path: tuple[str, ...]) -> tuple[str, str] | None:
    """Return (fqn, key) of a name "state.fqn.key", as `flatten_optimizer_state_dict` makes it."""
    head, _, rest = path[-1].partition(".")
    fqn, _, key = rest.rpartition(".")
    return (fqn, key) if head == "state" and fqn and key else None


def _prefix_of(weights: list[str], paths: Mapping[str, tuple[str, ...]]) -> str:
    tops = {paths[name][0] if len(paths[name]) > 1 else "" for name in weights}
    if len(tops) > 1:
        raise ValueError(
            f"the tensors lie under {sorted(tops)}, and one of these is the model. Name it with "
            '--prefix, such as "model."'
        )
    top = tops.pop() if tops else ""
    return f"{top}." if top else ""


def _dtype(described: Record) -> str:
    properties = described.field("properties")
    # TensorProperties gives its state as a tuple that begins with the dtype.
    first = (
        properties.state[0] if isinstance(properties.state, tuple) else properties.field("dtype")
    )
    name = first.name.removeprefix("torch.") if isinstance(first, Name) else "of no known name"
    if name not in DTYPES:
        raise ValueError(f"the dtype {name} has no place in safetensors")
    return DTYPES[name]


def _chunks(metadata: Record) -> dict[str, list[_Chunk]]:
    sizes = {
        (name, dimensions(chunk.field("offsets"))): dimensions(chunk.field("sizes"))
        for name, one in metadata.field("state_dict_metadata").items()
        if one.name == f"{_MODULE}.metadata.TensorStorageMetadata"
        for chunk in one.field("chunks")
    }
    found: dict[str, list[_Chunk]] = {}
    for index, info in metadata.field("storage_data").items():
        if index.optional("offset") is None:
            continue
        name, offsets = index.field("fqn"), dimensions(index.field("offset"))
        file = info.field("relative_path")
        if not isinstance(name, str) or not isinstance(file, str):
            raise TypeError("a chunk without a name")
        if "/" in file or file in ("", ".", ".."):
            raise ValueError(f"a file named {file!r}, which is not inside the folder")
        found.setdefault(name, []).append(
            _Chunk(
                offsets=offsets,
                sizes=sizes[name, offsets],
                file=file,
                at=info.field("offset"),
                size_bytes=info.field("length"),
            )
        )
    return found


def _reader(folder: Path, files: Files, spec: TensorSpec, chunks: list[_Chunk]) -> Any:
    return lambda: _read(folder, files, spec, chunks)


def _read(folder: Path, files: Files, spec: TensorSpec, chunks: list[_Chunk]) -> torch.Tensor:
    """Put the boxes of a tensor together, and prove that they are all of it."""
    require_cover(folder / METADATA_NAME, spec.name, spec.shape, chunks)
    for chunk in chunks:
        _require_room(folder / chunk.file, files, spec, chunk)
    parts = _boxes(folder, files, spec, chunks)
    return whole_of(spec.shape, torch_dtype(spec.dtype), parts)


def _boxes(
    folder: Path, files: Files, spec: TensorSpec, chunks: list[_Chunk]
) -> Iterator[tuple[_Chunk, torch.Tensor]]:
    for chunk in chunks:
        path = folder / chunk.file
        file = TorchFile(path, files, offset=chunk.at, size_bytes=chunk.size_bytes)
        try:
            found = file.data
            if (
                not isinstance(found, TensorRef)
                or found.shape != chunk.sizes
                or found.dtype != spec.dtype
            ):
                raise DamagedCheckpointError(path, f"holds something else at byte {chunk.at}")
            yield chunk, file.read(found)
        finally:
            file.close()


def _require_room(path: Path, files: Files, spec: TensorSpec, chunk: _Chunk) -> None:
    """Refuse a chunk that cannot have its declared size, before memory is allocated."""
    with reading(path):
        size_bytes = files.size(path)
    needed_bytes = math.prod(chunk.sizes) * spec.itemsize
    if chunk.at + chunk.size_bytes > size_bytes or needed_bytes > chunk.size_bytes:
        raise DamagedCheckpointError(
            path, f"has no room for the {needed_bytes} bytes of {spec.name} at byte {chunk.at}"
        )
