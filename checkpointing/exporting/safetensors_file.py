"""Export a checkpoint as one plain safetensors file of whole tensors."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..format.fragment import torch_dtype
from ..format.manifest import BLOCK_BYTES
from ..format.shard_header import encode_header
from ..format.tensor_bytes import byte_view
from ..format.tensor_spec import ITEMSIZES_BYTES, TensorSpec
from ..reading.reader import CheckpointReader
from ..storage.atomic_write import written_aside
from ..storage.block_writer import BlockWriter
from ..storage.local_files import LOCAL_FILES, Files, full_disk_told
from .plan import WEIGHT_KEYS, choose_tensors, entry_of

_PIECE_ELEMENTS = 1024 * 1024


def export_safetensors(
    reader: CheckpointReader,
    path: Path,
    *,
    keys: Iterable[str] = WEIGHT_KEYS,
    preferred: str | None = None,
    dtype: str | None = None,
    metadata: Mapping[str, str],
    names: Mapping[str, str] | None = None,
    files: Files = LOCAL_FILES,
    between: Callable[[], None] = lambda: None,
) -> int:
    """Write the chosen tensors, each named by its fqn, whole and in its shape.

    The file appears under its name only when it is complete and durable, and replaces an older
    one. Memory stays below a few blocks, whatever the size of the model. Called on the
    coordinator only, and for one path once at a time.

    Args:
        reader: The checkpoint.
        path: The file; its folder is made if it is missing.
        keys: Which tensors; of each fqn at most one.
        preferred: A key whose tensors take the place of the others of their fqn, such as "ema".
        dtype: F16, BF16, F32 or F64 to convert the floating-point tensors; None leaves every
            tensor as it is stored.
        metadata: Goes into the header, besides {"format": "pt"}.
        names: By the fqn, what tensors are called in the file, and no others are exported.
        files: How to reach the disk.
        between: Called before each piece of some megabytes; what it raises ends the export, and
            nothing of it stays.

    Returns:
        The size of the file in bytes.

    Raises:
        DamagedCheckpointError: If the checkpoint is damaged; nothing is exported.
        SaveFailedError: If the disk refuses.
        ValueError: If the checkpoint lacks one of `names`, no tensor has one of the keys, two of
            the chosen tensors share an fqn, or the dtype is not one of the four.
    """
    specs = choose_tensors(reader.manifest.specs(), tuple(keys), preferred=preferred)
    if names is not None:
        lacking = sorted(names.keys() - {spec.fqn for spec in specs})
        if lacking:
            raise ValueError(f"{reader.folder.name} has no {lacking[0]}.")
        specs = [spec for spec in specs if spec.fqn in names]
    entry_of(specs[0], dtype)  # a wrong dtype is refused before anything is made
    with written_aside(path, files) as aside:
        return write_and_close(
            reader, files.create(aside), specs, dtype, metadata, files, between, names
        )


def write_and_close(
    reader: CheckpointReader,
    fd: int,
    specs: Sequence[TensorSpec],
    dtype: str | None,
    metadata: Mapping[str, str],
    files: Files,
    between: Callable[[], None] = lambda: None,
    names: Mapping[str, str] | None = None,
) -> int:
    """Fill a new file with tensors, sync and close it; return its size in bytes.

    Raises:
        DamagedCheckpointError: If the checkpoint is damaged.
        OSError: From the disk.
    """
    try:
        own = {"format": "pt", **metadata}
        return _write(reader, specs, dtype, own, fd, files, between, names or {})
    finally:
        files.close(fd)


def _write(
    reader: CheckpointReader,
    specs: Sequence[TensorSpec],
    dtype: str | None,
    metadata: Mapping[str, str],
    fd: int,
    files: Files,
    between: Callable[[], None],
    names: Mapping[str, str],
) -> int:
    # Larger items first keeps every tensor at a multiple of its item (see `encode_header`).
    pairs = sorted(
        ((spec, entry_of(spec, dtype)) for spec in specs),
        key=lambda pair: -ITEMSIZES_BYTES[pair[1].dtype],
    )
    named = [replace(entry, name=names.get(entry.name, entry.name)) for _, entry in pairs]
    header = encode_header(named, metadata)
    planned_bytes = len(header) + sum(entry.size_bytes for _, entry in pairs)
    with full_disk_told(fd, files, planned_bytes):
        files.preallocate(fd, planned_bytes)
        writer = BlockWriter(fd, files, BLOCK_BYTES, size_bytes=planned_bytes)
        writer.write(memoryview(header))
        for spec, entry in pairs:
            for piece in _pieces(reader, spec, torch_dtype(entry.dtype)):
                between()
                writer.write(byte_view(piece))
        size_bytes, _ = writer.finish()
        files.fsync(fd)
        return size_bytes


def _pieces(
    reader: CheckpointReader, spec: TensorSpec, dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    for start in range(0, spec.numel, _PIECE_ELEMENTS):
        end = min(start + _PIECE_ELEMENTS, spec.numel)
        yield reader.read(spec.fqn, spec.key, start, end).to(dtype)
