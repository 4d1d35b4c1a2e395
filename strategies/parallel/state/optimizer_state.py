"""The state of a torch optimizer, parameter by parameter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from checkpointing import JSON, Fragment, TensorSpec, dtype_name, torch_dtype

from ...errors import ConfigError
from ..catalogue import OBJECT, WEIGHT_KEYS
from .counters import is_counter
from .saved_state import OWN_PREFIX, SavedParameter
from .typed_values import UnsavableError, decode, encode, stored_keys

_CREATED_ON_DEVICE = ("capturable", "fused")
_RESERVED = (*WEIGHT_KEYS, OBJECT)
_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_ADVICE = "Use an optimizer that keeps tensors and numbers, such as SGD, Adam or AdamW."
_ADVICE_WHERE_CUT = (
    "Only state of the parameter's own shape can be cut as the parameter is: use --strategy ddp "
    "(single on one rank), or an elementwise optimizer such as SGD, Adam or AdamW."
)


@dataclass(frozen=True, kw_only=True)
class KeptState:
    """What an optimizer keeps for one parameter."""

    tensors: dict[str, torch.Tensor]
    """Of the owner's own shape, by the key under which each is stored."""
    others: dict[str, torch.Tensor]
    """Of other shapes, which only a strategy that holds the parameter whole can have."""
    values: dict[str, JSON]
    """All the rest, by the optimizer's own key."""


def kept_state(
    optimizer: torch.optim.Optimizer, owner: torch.Tensor, fqn: str, *, whole: bool = False
) -> KeptState:
    """Return what an optimizer keeps for one parameter.

    Args:
        optimizer: whose state.
        owner: by which it is keyed; the parameter or a rank's part of it.
        fqn: the parameter's name, for messages.
        whole: whether the owner is the whole parameter, on every rank.

    Raises:
        ConfigError: a part of it has no place in a checkpoint.
    """
    kept = KeptState(tensors={}, others={}, values={})
    for key, value in optimizer.state.get(owner, {}).items():
        stored = stored_key(optimizer, key)
        if isinstance(value, torch.Tensor) and _is_elementwise(optimizer, owner, key, value):
            kept.tensors[stored] = value
            continue

        def store(tensor: torch.Tensor, name: str) -> None:
            if not _WORD.fullmatch(name):
                raise UnsavableError(f"a tensor under the key {name!r}, which is no word")
            kept.others[name] = tensor.detach()

        try:
            kept.values[key] = encode(
                value, stored, owner=owner.device, store=store if whole else None
            )
        except UnsavableError as error:
            raise ConfigError(
                f"{type(optimizer).__name__} keeps for {fqn} of shape {tuple(owner.shape)}: "
                f"{error}. {_ADVICE if whole else _ADVICE_WHERE_CUT}"
            ) from error
    return kept


def stored_key(optimizer: torch.optim.Optimizer, key: object) -> str:
    """Return the key under which a state is stored.

    Raises:
        ConfigError: it is no word, or the name of the average of the weights.
    """
    if not isinstance(key, str) or not _WORD.fullmatch(key):
        raise ConfigError(
            f"{type(optimizer).__name__} keeps a state under the key {key!r}, which is no word. "
            f"{_ADVICE}"
        )
    return f"{OWN_PREFIX}{key}" if key in _RESERVED or key.startswith(OWN_PREFIX) else key


def create_state(
    optimizer: torch.optim.Optimizer,
    owner: torch.Tensor,
    saved: SavedParameter | None,
    spec: TensorSpec,
) -> dict[str, torch.Tensor]:
    """Replace the owner's state by what a checkpoint keeps, tensors as zeros; return these.

    Built directly: stepping the optimizer to make its state appear would advance everything that
    hangs on a step.

    Args:
        optimizer: whose state.
        owner: by which it is keyed.
        saved: None: the parameter had no state when the checkpoint was made.
        spec: of the whole parameter.

    Raises:
        ConfigError: state of another shape than the parameter's, where the owner is a part of it.
    """
    optimizer.state.pop(owner, None)
    if saved is None:
        return {}
    tensors = {key: _zeros(optimizer, owner, spec, stored) for key, stored in saved.tensors.items()}
    beside = {key for value in saved.values.values() for key in stored_keys(value)}
    counters = owner.device if _counts_on_device(optimizer, owner) else None
    state = {key.removeprefix(OWN_PREFIX): t for key, t in tensors.items() if key not in beside}
    for key, value in saved.values.items():
        state[key] = decode(value, device=owner.device, counters=counters, read=tensors.__getitem__)
    if state:
        optimizer.state[owner] = state
    return tensors


def _zeros(
    optimizer: torch.optim.Optimizer, owner: torch.Tensor, spec: TensorSpec, stored: TensorSpec
) -> torch.Tensor:
    dtype = torch_dtype(stored.dtype)
    if stored.shape == spec.shape:
        return torch.zeros_like(owner, dtype=dtype)
    if owner.shape != spec.shape or isinstance(owner, DTensor):
        raise ConfigError(
            f"the checkpoint has {stored.key} of shape {stored.shape} for {spec.fqn} of shape "
            f"{spec.shape}: {type(optimizer).__name__} keeps it for the whole parameter. "
            f"{_ADVICE_WHERE_CUT}"
        )
    return torch.zeros(stored.shape, dtype=dtype, device=owner.device)


def _counts_on_device(optimizer: torch.optim.Optimizer, owner: torch.Tensor) -> bool:
    group = next(
        (g for g in optimizer.param_groups if any(p is owner for p in g["params"])),
        optimizer.param_groups[0],
    )
    return any(group.get(flag) for flag in _CREATED_ON_DEVICE)


def _is_elementwise(
    optimizer: torch.optim.Optimizer, owner: torch.Tensor, key: str, value: torch.Tensor
) -> bool:
    is_plain = type(value) in (torch.Tensor, nn.Parameter, DTensor)  # not one that stands for codes
    is_own = is_plain and value.shape == owner.shape
    return is_own and not is_counter(optimizer, owner, key, value)


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
    """Return the spec of a state tensor of a parameter's own shape."""
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
