"""The user's own objects in a checkpoint: two methods, and nothing but JSON and tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch

from checkpointing import JSON, Fragment, TensorSpec, dtype_name

from ..errors import ConfigError
from ..parallel.catalogue import OBJECT

_TENSOR = "__tensor__"

State: TypeAlias = Any
"""None, bool, int, float, str, list, dict with text as keys, and tensors, nested."""


@runtime_checkable
class Stateful(Protocol):
    """An object whose state is stored in the checkpoint, such as a curriculum."""

    def state(self) -> State:
        """Return the state. Called on the coordinator, so it must be the same on every rank."""
        ...

    def restore(self, state: State) -> None:
        """Restore what `state` returned; tensors are on the CPU. Called on every rank."""
        ...


Objects: TypeAlias = Mapping[str, Stateful]


@dataclass(frozen=True, kw_only=True)
class EncodedObjects:
    """The states of all objects, with the tensors taken out."""

    state: Mapping[str, JSON]
    """By object; {"__tensor__": [fqn, shape]} where a tensor stood."""
    fragments: list[Fragment]


def require_objects(objects: Objects) -> None:
    """Refuse objects that cannot be saved, before the training begins. No collective.

    Raises:
        ConfigError: naming the object, and where in its state something is of a wrong type.
    """
    for name, one in objects.items():
        if not isinstance(one, Stateful):
            raise ConfigError(
                f'objects["{name}"] is a {type(one).__name__}, which needs the two methods state() '
                "and restore(state)."
            )
    encode_objects(objects)


def encode_objects(objects: Objects) -> EncodedObjects:
    """Return the states of all objects as a checkpoint keeps them. No collective.

    Raises:
        ConfigError: something in a state is neither JSON nor a tensor.
    """
    encoder = _Encoder()
    state: dict[str, JSON] = {}
    for name, one in objects.items():
        encoder.name = name
        state[name] = encoder.encode(one.state(), f'objects["{name}"].state()')
    return EncodedObjects(state=state, fragments=encoder.fragments)


def decode_objects(
    saved: Mapping[str, Any], read: Callable[[str, str, int], torch.Tensor]
) -> dict[str, State]:
    """Return the states by object, as `Stateful.state` gave them; tensors on the CPU.

    Args:
        saved: `EncodedObjects.state`.
        read: a checkpoint's whole tensors, by fqn, key and number of elements.
    """
    return {name: _decode(state, read) for name, state in saved.items()}


class _Encoder:
    def __init__(self) -> None:
        self.name = ""
        self.fragments: list[Fragment] = []

    def encode(self, value: State, where: str) -> JSON:
        if isinstance(value, torch.Tensor):
            return self._tensor(value, where)
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        if isinstance(value, list):
            return [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, dict):
            return {
                self._key(key, where): self.encode(item, f"{where}[{key!r}]")
                for key, item in value.items()
            }
        what = repr(value) if isinstance(value, float) else f"a {type(value).__name__}"
        raise ConfigError(
            f"{where} is {what}. A state may hold None, bool, int, finite float, str, list, dict "
            "with text as keys, and tensors."
        )

    def _key(self, key: object, where: str) -> str:
        if not isinstance(key, str) or key == _TENSOR:
            raise ConfigError(f"{where} has the key {key!r}; keys must be text, not {_TENSOR}.")
        return key

    def _tensor(self, value: torch.Tensor, where: str) -> JSON:
        fqn = f"{self.name}/{len(self.fragments)}"
        try:
            dtype = dtype_name(value.dtype)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
        spec = TensorSpec(fqn=fqn, key=OBJECT, shape=tuple(value.shape), dtype=dtype)
        data = value.detach().reshape(-1).contiguous()
        self.fragments.append(Fragment(spec=spec, start=0, end=spec.numel, data=data))
        return {_TENSOR: [fqn, list(value.shape)]}


def _decode(value: Any, read: Callable[[str, str, int], torch.Tensor]) -> State:
    if isinstance(value, list):
        return [_decode(item, read) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        fqn, shape = value[_TENSOR]
        return read(fqn, OBJECT, math.prod(shape)).view(shape)
    return {key: _decode(item, read) for key, item in value.items()}
