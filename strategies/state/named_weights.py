"""Frozen tensors that are in the files of `weights=`, bit for bit: named there, not copied.

That is decided by the bytes, not by where they came from: a tensor that was cast when it was
loaded, or has changed since, is not among them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from checkpointing import JSON, Fragment, StoredBefore, TensorSpec, torch_dtype
from checkpointing.format.manifest import BLOCK_BYTES, Chunk, NamedTensor, StoredTensor
from checkpointing.format.manifest_json import encode_named, parse_named
from checkpointing.format.tensor_bytes import host_pieces
from checkpointing.storage.checksum import crc32

from ..collectives.process_group import HostCommunicator
from ..errors import ConfigError
from ..parallel.state.trained_state import TrainedState
from .collect import frozen_fragments
from .pretrained import InFile, PretrainedWeights, weight_file_paths
from .transformers_names import TransformersNames


def files_given(weights: str | Path | None) -> tuple[Path, ...]:
    """Return the files of `weights=`, absolute; none where they are not there. No collective."""
    if weights is None:
        return ()
    try:
        return tuple(Path(os.path.abspath(path)) for path in weight_file_paths(Path(weights)))
    except (ConfigError, OSError):
        return ()


def named_in_files(
    strategy: TrainedState,
    weights: Path,
    communicator: HostCommunicator,
    *,
    but: Collection[str] = (),
    names: TransformersNames | None = None,
) -> StoredBefore:
    """Return the frozen tensors whose bytes are those of a file. Called on every rank.

    Each rank compares what it holds; the ranks share the checksums. A file that a rank cannot read
    has none of them.

    Args:
        strategy: whose frozen tensors; the weights are loaded.
        weights: a safetensors file, or a folder with one or with an index.
        communicator: the host's group.
        but: names of tensors that are not looked at.
        names: how a model of transformers is named in files; None: as in memory.

    Returns:
        The same on every rank.
    """
    wanted = {
        spec.name: spec for spec in strategy.catalogue.frozen.values() if spec.name not in but
    }
    if not wanted:
        return StoredBefore()
    found = _in_files(strategy, weights, wanted, names)
    held = [f for f in frozen_fragments(strategy) if f.spec.name in wanted and f.start < f.end]
    others: JSON = sorted({f.spec.name for f in held if not _is_in_file(f, found)})
    differing = {name for one in communicator.all_gather(others) for name in _texts(one)}
    equal = [name for name, spec in wanted.items() if name not in differing and spec.numel]
    mine = equal[communicator.rank :: communicator.world_size]
    summed: list[JSON] = [
        [name, encode_named(one)] for name in mine if (one := _summed(found.get(name))) is not None
    ]
    everyone: Any = communicator.all_gather(summed)
    named = {name: parse_named(one) for part in everyone for name, one in part}
    there = [name for name in equal if name in named]
    return StoredBefore.of(
        [_stored(wanted[name], named[name]) for name in there],
        (),
        [*{named[name].name: named[name] for name in there}.values()],
    )


def _texts(value: JSON) -> Sequence[str]:
    assert isinstance(value, list)
    return [str(item) for item in value]


def _in_files(
    strategy: TrainedState,
    weights: Path,
    wanted: Mapping[str, TensorSpec],
    names: TransformersNames | None,
) -> dict[str, InFile]:
    try:
        source = PretrainedWeights.open(
            weights, strategy.weight_specs(), strategy.catalogue.aliases, names
        )
    except (ConfigError, OSError):
        return {}
    found = {name: source.in_file(spec.fqn) for name, spec in wanted.items()}
    return {
        name: one
        for name, one in found.items()
        if one is not None and one.dtype == torch_dtype(wanted[name].dtype)
    }


def _is_in_file(fragment: Fragment, found: Mapping[str, InFile]) -> bool:
    one = found.get(fragment.spec.name)
    if one is None:
        return False
    try:
        with one.path.open("rb") as file:
            file.seek(one.offset + fragment.start * fragment.spec.itemsize)
            for piece in host_pieces(fragment.data):
                for at in range(0, len(piece), BLOCK_BYTES):
                    part = piece[at : at + BLOCK_BYTES]
                    if file.read(len(part)) != part:
                        return False
    except OSError:
        return False
    return True


def _summed(one: InFile | None) -> NamedTensor | None:
    """Return a tensor of a file with its checksums; None: it cannot be read."""
    if one is None:
        return None
    sums: list[int] = []
    try:
        with one.path.open("rb") as file:
            file.seek(one.offset)
            for at in range(0, one.size_bytes, BLOCK_BYTES):
                part = file.read(min(BLOCK_BYTES, one.size_bytes - at))
                sums.append(crc32(part))
    except OSError:
        return None
    return NamedTensor.of(
        path=os.path.abspath(one.path),
        tensor=one.name,
        size_bytes=one.size_bytes,
        block_bytes=BLOCK_BYTES,
        crc32=tuple(sums),
    )


def _stored(spec: TensorSpec, named: NamedTensor) -> StoredTensor:
    return StoredTensor(
        spec=spec, chunks=(Chunk(file=named.name, start=0, end=spec.numel, offset=0),)
    )
