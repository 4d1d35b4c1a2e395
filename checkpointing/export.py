"""Export a checkpoint as one plain safetensors file of whole tensors."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from .block_writer import BlockWriter
from .errors import SaveFailedError
from .files import LOCAL_FILES, Files
from .fragment import torch_dtype
from .manifest import BLOCK_BYTES
from .names import new_token
from .reader import CheckpointReader
from .shard_format import Entry, encode_header
from .spec import ITEMSIZES_BYTES, TensorSpec
from .tensor_bytes import byte_view

_PIECE_ELEMENTS = 1024 * 1024
_FLOATS = ("F16", "BF16", "F32", "F64")


def export_safetensors(
    reader: CheckpointReader,
    path: Path,
    *,
    keys: Iterable[str] = ("fp32", "param", "buffer"),
    dtype: str | None = None,
    metadata: Mapping[str, str],
    files: Files = LOCAL_FILES,
) -> int:
    """Write the chosen tensors, each named by its fqn, whole and in its shape.

    The file appears under its name only when it is complete and durable, and replaces an older
    one. Memory stays below a few blocks, whatever the size of the model. Called on the
    coordinator only, and for one path once at a time.

    Args:
        reader: The checkpoint.
        path: The file; its folder is made if it is missing.
        keys: Which tensors; of each fqn at most one.
        dtype: F16, BF16, F32 or F64 to convert the floating-point tensors; None leaves every
            tensor as it is stored.
        metadata: Goes into the header, besides {"format": "pt"}.
        files: How to reach the disk.

    Returns:
        The size of the file in bytes.

    Raises:
        DamagedCheckpointError: If the checkpoint is damaged; nothing is exported.
        SaveFailedError: If the disk refuses.
        ValueError: If no tensor has one of the keys, two of the chosen tensors share an fqn, or
            the dtype is not one of the four.
    """
    specs = _choose(reader, tuple(keys), dtype)
    try:
        files.make_dirs(path.parent)
        _remove_stale(path, files)
        tmp = path.with_name(f".tmp-{path.name}-{new_token()}")
        fd = files.create(tmp)
        try:
            try:
                size_bytes = _write(reader, specs, dtype, {"format": "pt", **metadata}, fd, files)
            finally:
                files.close(fd)
            files.rename(tmp, path)
        except BaseException:
            files.unlink(tmp)
            raise
        files.fsync_dir(path.parent)
    except OSError as error:
        raise SaveFailedError(f"{path} was not exported: {error}") from error
    return size_bytes


def _choose(reader: CheckpointReader, keys: tuple[str, ...], dtype: str | None) -> list[TensorSpec]:
    if dtype is not None and dtype not in _FLOATS:
        raise ValueError(f"dtype={dtype!r} is not one to export in; choose from {_FLOATS}.")
    chosen: dict[str, TensorSpec] = {}
    for spec in reader.manifest.specs():
        if spec.key not in keys:
            continue
        if spec.fqn in chosen:
            raise ValueError(
                f"{spec.fqn} has both {chosen[spec.fqn].key} and {spec.key}, and a file holds one "
                f"tensor of a name. Pass fewer keys than {keys}."
            )
        chosen[spec.fqn] = spec
    if not chosen:
        stored = sorted({spec.key for spec in reader.manifest.specs()})
        raise ValueError(f"{reader.folder} has no tensor with keys={keys}; it has {stored}.")
    # Larger items first keeps every tensor at a multiple of its item (see `encode_header`).
    return sorted(chosen.values(), key=lambda spec: -ITEMSIZES_BYTES[_exported(spec, dtype)])


def _exported(spec: TensorSpec, dtype: str | None) -> str:
    return dtype if dtype is not None and spec.dtype in _FLOATS else spec.dtype


def _write(
    reader: CheckpointReader,
    specs: list[TensorSpec],
    dtype: str | None,
    metadata: Mapping[str, str],
    fd: int,
    files: Files,
) -> int:
    entries = [_entry(spec, _exported(spec, dtype)) for spec in specs]
    header = encode_header(entries, metadata)
    files.preallocate(fd, len(header) + sum(entry.size_bytes for entry in entries))
    writer = BlockWriter(fd, files, BLOCK_BYTES)
    writer.write(memoryview(header))
    for spec, entry in zip(specs, entries, strict=True):
        for piece in _pieces(reader, spec, torch_dtype(entry.dtype)):
            writer.write(byte_view(piece))
    size_bytes, _ = writer.finish()
    files.fsync(fd)
    return size_bytes


def _entry(spec: TensorSpec, dtype: str) -> Entry:
    return Entry(
        name=spec.fqn,
        dtype=dtype,
        shape=spec.shape,
        size_bytes=spec.numel * ITEMSIZES_BYTES[dtype],
    )


def _pieces(
    reader: CheckpointReader, spec: TensorSpec, dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    for start in range(0, spec.numel, _PIECE_ELEMENTS):
        end = min(start + _PIECE_ELEMENTS, spec.numel)
        yield reader.read(spec.fqn, spec.key, start, end).to(dtype)


def _remove_stale(path: Path, files: Files) -> None:
    """Remove what killed exports of the same path have left."""
    prefix = f".tmp-{path.name}-"
    for name in files.listdir(path.parent):
        if name.startswith(prefix) and len(name) == len(prefix) + len(new_token()):
            files.unlink(path.parent / name)
