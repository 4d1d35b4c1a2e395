"""Weights in plain safetensors, read by ranges straight into the shards of a model.

One file, or a folder as Hugging Face writes it: model.safetensors, or an index and its files.
https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from checkpointing import TensorSpec, torch_dtype

from .errors import ConfigError
from .parallel.protocol import Strategy
from .process_group import HostCommunicator

_INDEX = "model.safetensors.index.json"
_ONE_FILE = "model.safetensors"
_MAX_HEADER_BYTES = 100 * 1024 * 1024
"""As safetensors itself."""
_MAX_NAMES = 5


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """Where one tensor's bytes are."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def load_weights(strategy: Strategy, path: Path, communicator: HostCommunicator) -> None:
    """Overwrite the weights of a built model; each rank reads its share. Called on every rank.

    Args:
        strategy: whose weights; its optimizer has made no step yet.
        path: a safetensors file, or a folder with one or with an index.
        communicator: the host's group.

    Raises:
        ConfigError: on every rank, if any could not read, or names or shapes are not the model's.
    """
    sentence = None
    try:
        aliases = strategy.catalogue.aliases
        source = PretrainedWeights.open(path, strategy.weight_specs(), aliases)
        strategy.load(source, None)
    except (ConfigError, OSError) as error:
        sentence = str(error)
    for rank, said in enumerate(communicator.all_gather(sentence)):
        if said is not None:
            raise ConfigError(f"rank {rank} could not read the weights in {path}: {said}")
    strategy.refresh()


class PretrainedWeights:
    """A `TensorSource` over safetensors files."""

    def __init__(self, stored: Mapping[str, _Stored]) -> None:
        self._stored = stored

    @classmethod
    def open(
        cls, path: Path, specs: Sequence[TensorSpec], aliases: Mapping[str, str]
    ) -> PretrainedWeights:
        """Read the headers and compare them with what the model needs.

        Args:
            path: see `load_weights`.
            specs: the model's parameters and buffers.
            aliases: other names of tied parameters; a file may have the tensor under any of them.

        Raises:
            ConfigError: the files are not whole, or have other names or shapes than the model.
        """
        found: dict[str, _Stored] = {}
        for file in _files(path):
            found |= _read_header(file)
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
        return cls(found)

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
        stored = self._stored[fqn]
        itemsize = stored.dtype.itemsize
        buffer = bytearray((end - start) * itemsize)
        if not buffer:
            return torch.empty(0, dtype=stored.dtype)
        with open(stored.path, "rb") as file:
            file.seek(stored.offset + start * itemsize)
            if file.readinto(buffer) != len(buffer):
                raise ConfigError(f"{stored.path} ends inside {fqn}; it was cut off")
        return torch.frombuffer(buffer, dtype=stored.dtype)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    index = path / _INDEX
    if not index.exists():
        if not (path / _ONE_FILE).exists():
            raise ConfigError(f"the folder has neither {_ONE_FILE} nor {_INDEX}")
        return [path / _ONE_FILE]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"{index} is not an index of safetensors files ({error!r})") from error
    return [path / name for name in sorted(names)]


def _read_header(path: Path) -> dict[str, _Stored]:
    size_bytes = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size_bytes - 8, _MAX_HEADER_BYTES):
                raise ValueError(f"a header of {length} bytes")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        begin = 8 + length
        stored = {
            name: _Stored(
                path=path,
                offset=begin + entry["data_offsets"][0],
                shape=tuple(entry["shape"]),
                dtype=torch_dtype(entry["dtype"]),
            )
            for name, entry in header.items()
        }
        end = max((begin + entry["data_offsets"][1] for entry in header.values()), default=begin)
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
