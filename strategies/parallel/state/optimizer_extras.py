"""What an optimizer keeps beside its parameter groups and the state of its parameters.

That is attributes of its own which steps change, and state under keys that are no parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from checkpointing import JSON

from .typed_values import UnsavableError, decode, encode

_OF_TORCH = frozenset(
    ("state", "param_groups", "defaults", "_step_count", "_opt_called", "_zero_grad_profile_name")
)
_HOOKS = "_optimizer_"
"""How the names of a torch optimizer's tables of hooks begin."""


def plain_attributes(optimizer: torch.optim.Optimizer) -> dict[str, JSON]:
    """Return the optimizer's own attributes that a checkpoint can hold."""
    found = {}
    for name, value in vars(optimizer).items():
        if name in _OF_TORCH or name.startswith(_HOOKS) or isinstance(value, bool):
            continue  # a flag says that something has been set up, and not in the next start
        try:
            found[name] = encode(value, name)
        except UnsavableError:
            continue  # what steps change in it shows when the optimizer is tried
    return found


def extras_of(optimizer: torch.optim.Optimizer, as_built: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return what is kept, for a checkpoint.

    Args:
        optimizer: has taken steps.
        as_built: its `plain_attributes` before the first.

    Raises:
        UnsavableError: state under a key that is no parameter cannot be saved.
    """
    now = plain_attributes(optimizer)
    changed = {name: value for name, value in now.items() if as_built.get(name, now) != value}
    state: Mapping[Any, Any] = optimizer.state
    shared: list[JSON] = [
        [key, encode(value, f"{type(optimizer).__name__}.state[{key!r}]")]
        for key, value in state.items()
        if isinstance(key, str | int)
    ]
    return {
        "attributes": {
            name: {"as_built": as_built.get(name), "now": value} for name, value in changed.items()
        },
        "shared": shared,
    }


def put_back_extras(
    optimizer: torch.optim.Optimizer, as_built: Mapping[str, JSON], saved: Mapping[str, Any]
) -> None:
    """Put back what `extras_of` returned; an attribute that the script has changed is the script's.

    Args:
        optimizer: just built, or to go back.
        as_built: its `plain_attributes` when it was built.
        saved: from a checkpoint; empty where an earlier release has made it.
    """
    changed, now = saved.get("attributes", {}), plain_attributes(optimizer)
    for name, value in changed.items():
        if value["as_built"] == as_built.get(name):
            setattr(optimizer, name, decode(value["now"]))
    for name, value in as_built.items():
        if name not in changed and now.get(name) != value:  # changed since that checkpoint
            setattr(optimizer, name, decode(value))
    state: dict[Any, Any] = optimizer.state
    for key, value in saved.get("shared", ()):
        state[key] = decode(value)
