"""The state of a torch optimizer, parameter by parameter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from checkpointing import Fragment, TensorSpec, dtype_name

from ..errors import ConfigError
from .catalogue import WEIGHT_KEYS
from .counters import is_counter

_CREATED_ON_DEVICE = ("capturable", "fused")


def tensor_state(
    optimizer: torch.optim.Optimizer, owner: torch.Tensor, fqn: str
) -> dict[str, torch.Tensor]:
    """Return the state tensors of the owner's own shape, by key.

    Raises:
        ConfigError: state of another shape, which has no place in a strategy-neutral checkpoint.
    """
    tensors = {}
    for key, value in optimizer.state.get(owner, {}).items():
        if not isinstance(value, torch.Tensor) or is_counter(optimizer, owner, key, value):
            continue
        if value.shape != owner.shape:
            raise ConfigError(
                f"{type(optimizer).__name__} keeps {key} of shape {tuple(value.shape)} for {fqn} "
                f"of shape {tuple(owner.shape)}. Only state of the parameter's own shape can be "
                "saved; use an elementwise optimizer such as SGD, Adam or AdamW."
            )
        tensors[key] = value
    return tensors


def scalar_state(optimizer: torch.optim.Optimizer, owner: torch.Tensor) -> dict[str, float | int]:
    """Return the numbers kept for one parameter, such as its step."""
    scalars: dict[str, float | int] = {}
    for key, value in optimizer.state.get(owner, {}).items():
        if isinstance(value, torch.Tensor) and is_counter(optimizer, owner, key, value):
            scalars[key] = value.item()
        elif isinstance(value, int | float) and not isinstance(value, bool):
            scalars[key] = value
    return scalars


def create_state(
    optimizer: torch.optim.Optimizer,
    owner: torch.Tensor,
    keys: Iterable[str],
    scalars: Mapping[str, float | int],
) -> dict[str, torch.Tensor]:
    """Replace the owner's state by zeros under `keys` and by `scalars`; return the zeros.

    Built directly: stepping the optimizer to make its state appear would advance everything that
    hangs on a step.
    """
    group = next(
        (g for g in optimizer.param_groups if any(p is owner for p in g["params"])),
        optimizer.param_groups[0],
    )
    device = owner.device if any(group.get(flag) for flag in _CREATED_ON_DEVICE) else "cpu"
    tensors = {key: torch.zeros_like(owner) for key in keys}
    state: dict[str, Any] = dict(tensors)
    for key, value in scalars.items():
        # torch's optimizers keep counters as 0-dim float32 tensors, saved as JSON floats; an
        # optimizer that counts in a Python int is saved as an int.
        is_tensor = isinstance(value, float)
        state[key] = torch.tensor(value, dtype=torch.float32, device=device) if is_tensor else value
    if state:
        optimizer.state[owner] = state
    else:
        optimizer.state.pop(owner, None)
    return tensors


def forget_state(
    optimizer: torch.optim.Optimizer, owner: torch.Tensor, keys: Mapping[str, Sequence[str]]
) -> None:
    """Drop what is kept for a parameter that had no state when the checkpoint was made.

    Only where the checkpoint's optimizer state is loaded at all (`keys` is not empty).
    """
    if keys:
        optimizer.state.pop(owner, None)


def names_by_group(
    optimizer: torch.optim.Optimizer,
    named: Sequence[tuple[str, nn.Parameter]],
    former: Mapping[int, str] | None = None,
) -> list[list[str]]:
    """Return the parameter names of each group of the user's optimizer.

    Args:
        optimizer: made by the user's factory.
        named: what the factory was given.
        former: by id(), the names of the model's parameters before it was sharded.

    Raises:
        ConfigError: the optimizer was given a parameter that is not one of the model's, one
            twice, or not every trainable one.
    """
    name_of = {id(parameter): name for name, parameter in named}
    groups: list[list[str]] = []
    for number, group in enumerate(optimizer.param_groups):
        strangers = [id(p) for p in group["params"] if id(p) not in name_of]
        early = [former[key] for key in strangers if former and key in former]
        if early:
            some = ", ".join(early[:5])
            raise ConfigError(
                f"group {number} of the optimizer holds {some} as it was before the model was "
                "sharded, or is not trained. Make the optimizer inside its factory, from the "
                "factory's argument."
            )
        if strangers:
            raise ConfigError(
                f"group {number} of the optimizer holds {len(strangers)} parameters that are not "
                "among the ones handed to the optimizer factory. Build it from its argument."
            )
        groups.append([name_of[id(p)] for p in group["params"]])
    counts = Counter(name for group in groups for name in group)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ConfigError(
            f"the optimizer holds {', '.join(twice[:5])} more than once, and would update it as "
            "often. Give each parameter to one group."
        )
    missing = set(name_of.values()) - set(counts)
    if missing:
        some = ", ".join(sorted(missing)[:5])
        raise ConfigError(
            f"{len(missing)} trainable parameters are in no group of the optimizer ({some}). "
            "Give them to it, or set requires_grad=False on them in the model."
        )
    return groups


def state_spec(spec: TensorSpec, key: str, dtype: torch.dtype) -> TensorSpec:
    """Return the spec of an optimizer state tensor that belongs to a parameter."""
    return replace(spec, key=key, dtype=dtype_name(dtype))


def fragment_of(spec: TensorSpec, start: int, end: int, data: torch.Tensor) -> Fragment:
    """Return elements [start, end) of a tensor as a fragment.

    Only the next update changes the optimizer's state. A script may touch the weights and the
    buffers at any time.
    """
    is_steady = spec.key not in WEIGHT_KEYS
    return Fragment(spec=spec, start=start, end=end, data=data, is_steady=is_steady)


def whole(spec: TensorSpec, data: torch.Tensor) -> Fragment:
    """Return all of a tensor as one fragment."""
    return fragment_of(spec, 0, spec.numel, flat(data))


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor flattened in row-major order; a view where the memory allows it."""
    return tensor.detach().reshape(-1)


def copy_flat(target: torch.Tensor, values: torch.Tensor) -> None:
    """Copy 1-D `values` into `target`, whatever the target's memory layout."""
    with torch.no_grad():
        target.copy_(values.view(target.shape))
