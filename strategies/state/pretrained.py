"""Weights in plain safetensors, read by ranges straight into the shards of a model.

One file, or a folder as Hugging Face writes it: model.safetensors, or an index and its files.
https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from checkpointing import (
    TensorSpec,
    UnsupportedDtypeError,
    require_supported,
    torch_dtype,
)
from checkpointing.format.hugging_face_files import INDEX, ONE_FILE, weight_files

from ..collectives.process_group import HostCommunicator
from ..errors import ConfigError
from ..parallel.strategy import Strategy
from .transformers_names import Built, TransformersNames

_MAX_HEADER_BYTES = 100 * 1024 * 1024
"""As safetensors itself."""
_MAX_NAMES = 5


@dataclass(frozen=True, kw_only=True)
class InFile:
    """Where one tensor's bytes are."""

    path: Path
    name: str
    """What it is called there."""
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A tensor that is made of others of the files."""

    built: Built
    shape: tuple[int, ...]
    dtype: torch.dtype


def load_weights(
    strategy: Strategy,
    path: Path,
    communicator: HostCommunicator,
    names: TransformersNames | None = None,
) -> None:
    """Overwrite the weights of a built model; each rank reads its share. Called on every rank.

    Args:
        strategy: whose weights; its optimizer has made no step yet.
        path: a safetensors file, or a folder with one or with an index.
        communicator: the host's group.
        names: how a model of transformers is named in files; None: as in memory.

    Raises:
        ConfigError: on every rank, if any could not read, or names or shapes are not the model's.
    """
    sentence = None
    try:
        aliases = strategy.catalogue.aliases
        source = PretrainedWeights.open(path, strategy.weight_specs(), aliases, names)
        strategy.load(source, None)
    except (ConfigError, OSError) as error:
        sentence = str(error)
    for rank, said in enumerate(communicator.all_gather(sentence)):
        if said is not None:
            raise ConfigError(f"rank {rank} could not read the weights in {path}: {said}")
    strategy.refresh()


class PretrainedWeights:
    """A `TensorSource` over safetensors files."""

    def __init__(self, found: Mapping[str, InFile | _Made], stored: Mapping[str, InFile]) -> None:
        """Take the model's tensors, and those of the files that some of them are made of."""
        self._found = found
        self._stored = stored
        self._newest: tuple[Built, Mapping[str, torch.Tensor]] | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        specs: Sequence[TensorSpec],
        aliases: Mapping[str, str],
        names: TransformersNames | None = None,
    ) -> PretrainedWeights:
        """Read the headers and compare them with what the model needs.

        Args:
            path: see `load_weights`.
            specs: the model's parameters and buffers.
            aliases: other names of tied parameters; a file may have the tensor under any of them.
            names: see `load_weights`.

        Raises:
            ConfigError: the files are not whole, or have other names or shapes than the model.
        """
        stored: dict[str, InFile] = {}
        for file in weight_file_paths(path):
            stored |= _read_header(file)
        found: dict[str, InFile | _Made] = dict(stored)
        if names is not None:
            found = _made(names, stored, {*(spec.fqn for spec in specs), *aliases})
        for alias, name in aliases.items():
            if alias in found:
                other = found.pop(alias)
                found.setdefault(name, other)
        wanted = {spec.fqn: spec for spec in specs}
        problems = [
            *_listed("in the model, but not in the file", wanted.keys() - found.keys()),
            *_listed("in the file, but not in the model", found.keys() - wanted.keys()),
            *(
                f"{name} is {spec.shape} in the model and {found[name].shape} in the file"
                for name, spec in wanted.items()
                if name in found and found[name].shape != spec.shape
            ),
        ]
        if problems:
            raise ConfigError(f"{'; '.join(problems[:_MAX_NAMES])}. Is this the same model config?")
        return cls(found, stored)

    def read_whole(self, fqn: str, key: str, numel: int) -> torch.Tensor:
        """Return all of a tensor, 1-D, on the CPU; every rank reads it for itself.

        Raises:
            ConfigError: the file ends before it does.
        """
        return self.read(fqn, key, 0, numel)

    def read(self, fqn: str, key: str, start: int, end: int) -> torch.Tensor:
        """Return elements [start, end) of the flattened tensor, 1-D, on the CPU.

        Raises:
            ConfigError: the file ends before them.
        """
        found = self._found[fqn]
        if isinstance(found, _Made):
            return self._whole_of(found.built)[fqn].reshape(-1)[start:end]
        return _read(found, fqn, start, end)

    def in_file(self, fqn: str) -> InFile | None:
        """Return where a tensor of the model is; None: it is made of others of the files."""
        found = self._found[fqn]
        return found if isinstance(found, InFile) else None

    def _whole_of(self, built: Built) -> Mapping[str, torch.Tensor]:
        """Return what a rule makes; the newest is kept, for it may be asked for in parts."""
        if self._newest is None or self._newest[0] is not built:
            self._newest = None  # first, so that there are never two
            self._newest = (built, built.build(self._read_for_rule))
        return self._newest[1]

    def _read_for_rule(self, name: str) -> torch.Tensor:
        stored = self._stored[name]
        return _read(stored, name, 0, math.prod(stored.shape)).view(stored.shape)


def _made(
    names: TransformersNames, stored: Mapping[str, InFile], wanted: set[str]
) -> dict[str, InFile | _Made]:
    """Return the model's tensors by its own names; their shapes are found out without a value.

    Raises:
        ConfigError: a rule does not fit the files.
    """

    def without_values(name: str) -> torch.Tensor:
        return torch.empty(stored[name].shape, dtype=stored[name].dtype, device="meta")

    try:
        rules = names.built_from(stored, wanted)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the installed transformers has other rules than known ({error!r})"
        ) from error
    found: dict[str, InFile | _Made] = {}
    for built in rules:
        try:
            made = built.build(without_values)
        except Exception as error:
            shown = ", ".join(built.sources[:_MAX_NAMES])
            raise ConfigError(
                f"transformers' rule for {shown} does not fit what is in the file ({error})"
            ) from error
        for name, tensor in made.items():
            if name in found:
                raise ConfigError(f"{name} is made of {built.sources[0]} and of others in the file")
            found[name] = (
                stored[built.sources[0]]
                if built.is_plain
                else _Made(built=built, shape=tuple(tensor.shape), dtype=tensor.dtype)
            )
    return found


def _read(stored: InFile, name: str, start: int, end: int) -> torch.Tensor:
    itemsize = stored.dtype.itemsize
    buffer = bytearray((end - start) * itemsize)
    if not buffer:
        return torch.empty(0, dtype=stored.dtype)
    with open(stored.path, "rb") as file:
        file.seek(stored.offset + start * itemsize)
        if file.readinto(buffer) != len(buffer):
            raise ConfigError(f"{stored.path} ends inside {name}; it was cut off")
    return torch.frombuffer(buffer, dtype=stored.dtype)


def weight_file_paths(path: Path) -> list[Path]:
    """Return the safetensors files that a path means: itself, or those of a folder.

    Raises:
        ConfigError: the folder holds none, or names one that is missing.
        OSError: it cannot be read.
    """
    if not path.is_dir():
        return [path]
    names = [file.name for file in path.iterdir()]
    if ONE_FILE not in names and INDEX not in names:
        raise ConfigError(f"the folder has neither {ONE_FILE} nor {INDEX}")
    try:
        chosen = weight_files(names, lambda name: (path / name).read_bytes())
    except ValueError as error:
        raise ConfigError(f"in {path}, {error}") from error
    if missing := [name for name in chosen if name not in names]:
        raise ConfigError(f"{path / INDEX} names {missing[0]}, which is not there")
    return [path / name for name in chosen]


def _read_header(path: Path) -> dict[str, InFile]:
    size_bytes = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size_bytes - 8, _MAX_HEADER_BYTES):
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            require_supported(entry["dtype"], name, path)
        begin = 8 + length
        stored = {
            name: InFile(
                path=path,
                name=name,
                offset=begin + entry["data_offsets"][0],
                shape=tuple(entry["shape"]),
                dtype=torch_dtype(entry["dtype"]),
            )
            for name, entry in header.items()
        }
        end = max((begin + entry["data_offsets"][1] for entry in header.values()), default=begin)
    except UnsupportedDtypeError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigError(f"{path} is not a safetensors file ({error})") from error
    if end > size_bytes:
        raise ConfigError(f"{path} has {size_bytes} of {end} bytes; it was cut off")
    return stored


def _listed(where: str, names: set[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(sorted(names)[:_MAX_NAMES])
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return [f"{shown}{more} {'is' if len(names) == 1 else 'are'} {where}"]
