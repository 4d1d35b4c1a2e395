"""What a model is made of, by name: recorded before any strategy shards or wraps it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from checkpointing import TensorSpec, dtype_name

from ..errors import ConfigError

MASTER = "fp32"
"""Key of a trainable parameter's fp32 master."""
FROZEN = "param"
"""Key of a parameter that is not trained, in its own dtype."""
BUFFER = "buffer"
"""Key of a persistent buffer."""
OBJECT = "object"
"""Key of a tensor that belongs to one of the user's objects."""
WEIGHT_KEYS = (MASTER, FROZEN, BUFFER)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The names and shapes of a model's state, the same under every strategy."""

    trainable: dict[str, TensorSpec]
    frozen: dict[str, TensorSpec]
    buffers: dict[str, TensorSpec]
    aliases: dict[str, str]
    """Other names of tied parameters, each with the one name under which it is kept."""

    def weight_specs(self) -> list[TensorSpec]:
        """Return every tensor that the model itself consists of."""
        return [*self.trainable.values(), *self.frozen.values(), *self.buffers.values()]


def catalogue_of(model: nn.Module) -> Catalogue:
    """Read a freshly built model.

    Raises:
        ConfigError: nothing to train, or a trainable parameter that is not float32.
    """
    first_name: dict[int, str] = {}
    trainable: dict[str, TensorSpec] = {}
    frozen: dict[str, TensorSpec] = {}
    aliases: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first_name:
            aliases[name] = first_name[id(parameter)]
            continue
        first_name[id(parameter)] = name
        if not parameter.requires_grad:
            frozen[name] = spec_of(name, FROZEN, parameter.shape, parameter.dtype)
            continue
        if parameter.dtype != torch.float32:
            raise ConfigError(
                f"parameter {name} is {parameter.dtype}; trainable parameters must be built in "
                "torch.float32, which are the masters. Choose the compute dtype with --precision."
            )
        trainable[name] = spec_of(name, MASTER, parameter.shape, parameter.dtype)
    if not trainable:
        raise ConfigError("the model has no trainable parameter (requires_grad=True).")
    return Catalogue(
        trainable=trainable, frozen=frozen, buffers=buffer_specs(model), aliases=aliases
    )


def persistent_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the live buffers that a state dict would hold, by name."""
    kept = set(model.state_dict(keep_vars=True))
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}


def buffer_specs(model: nn.Module) -> dict[str, TensorSpec]:
    """Return the persistent buffers by name."""
    return {
        name: spec_of(name, BUFFER, buffer.shape, buffer.dtype)
        for name, buffer in persistent_buffers(model).items()
    }


def spec_of(fqn: str, key: str, shape: torch.Size, dtype: torch.dtype) -> TensorSpec:
    """Return the spec of a whole parameter or buffer.

    Raises:
        ConfigError: no checkpoint can hold it.
    """
    try:
        name = dtype_name(dtype)
    except ValueError as error:
        what = "buffer" if key == BUFFER else "parameter"
        raise ConfigError(
            f"{what} {fqn} is {dtype}, which no checkpoint can hold: safetensors has no "
            "name for it, or its elements are no whole bytes. Convert it in the model's factory, "
            "or register a buffer with persistent=False."
        ) from error
    return TensorSpec(fqn=fqn, key=key, shape=tuple(shape), dtype=name)
