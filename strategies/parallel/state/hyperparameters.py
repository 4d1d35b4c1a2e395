"""The optimizer's hyper-parameters, kept by parameter name.

Two sets are saved: what the script asked for, and what was in force. On a resume a value that the
script still asks for keeps its value; one that the script has changed is the script's; one that
the script never named, because the optimizer made it in a step, keeps its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from checkpointing import JSON

from ...errors import ConfigError
from .typed_values import decode, encode_or_describe, is_opaque

_NOT_HYPERPARAMETERS = ("params", "param_names")


def current_hyperparameters(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, JSON]]:
    """Return the hyper-parameters of each parameter group, as `encode_or_describe` has them."""
    return [
        {
            name: encode_or_describe(value, name, owner=_device_of(group))
            for name, value in group.items()
            if name not in _NOT_HYPERPARAMETERS
        }
        for group in groups
    ]


def to_json(
    names: Sequence[Sequence[str]],
    requested: Sequence[Mapping[str, JSON]],
    current: Sequence[Mapping[str, JSON]],
) -> list[JSON]:
    """Return what a checkpoint keeps: one entry a parameter group."""
    return [
        {"parameters": list(n), "requested": dict(r), "current": dict(c), "typed": True}
        for n, r, c in zip(names, requested, current, strict=True)
    ]


def merge(
    names: Sequence[Sequence[str]],
    requested: Sequence[Mapping[str, JSON]],
    saved: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, JSON]], list[str]]:
    """Return the values to put back in each group, and a sentence for each change.

    Args:
        names: parameter names of each group of the optimizer just built.
        requested: its hyper-parameters as the script gave them.
        saved: what `to_json` returned when the checkpoint was made.
    """
    group_of = {name: group for group in saved for name in group["parameters"]}
    merged: list[dict[str, JSON]] = []
    changes: list[str] = []
    for number, (members, asked) in enumerate(zip(names, requested, strict=True)):
        old = group_of.get(members[0]) if members else None
        values = dict(asked)
        if old is not None:
            old = old if old.get("typed") else _typed(old, asked)
            values |= _made_in_steps(old, asked)
            for name, value in asked.items():
                if name not in old["requested"]:
                    continue
                before = old["requested"][name]
                if before == value:
                    values[name] = old["current"].get(name, value)
                else:
                    shown = f"{_shown(before)} -> {_shown(value)}"
                    changes.append(f"{name} of parameter group {number}: {shown}")
        merged.append(values)
    return merged, changes


def put_back(groups: Sequence[dict[str, Any]], values: Sequence[Mapping[str, JSON]]) -> None:
    """Write what `merge` returned into live parameter groups; what is only described stays.

    A tensor is written into the one that is there, which several groups may share.
    """
    for group, new in zip(groups, values, strict=True):
        device = _device_of(group)
        for name, value in new.items():
            if is_opaque(value):
                continue
            made, there = decode(value, device=device, counters=device), group.get(name)
            if isinstance(there, torch.Tensor) and _is_like(there, made):
                there.copy_(made)
            else:
                group[name] = made


def put_in_force(groups: Sequence[dict[str, Any]], values: Sequence[Mapping[str, Any]]) -> None:
    """Write hyper-parameters into live parameter groups, keeping each value's own type.

    Raises:
        ConfigError: the script has added a group since, or removed one.
    """
    if len(groups) != len(values):
        raise ConfigError(
            f"the optimizer was made with {len(values)} parameter groups and has {len(groups)} "
            "now. Make all of them in the function that is passed as optimizer=; what is to be "
            "trained from a later step on is named in run.prepare(unfreeze=...)."
        )
    for group, new in zip(groups, values, strict=True):
        for name, value in new.items():
            there = group.get(name)
            if isinstance(there, tuple):
                group[name] = tuple(value)
            elif isinstance(there, torch.Tensor) and not isinstance(value, torch.Tensor):
                group[name] = torch.full_like(there, value)  # another one: groups may share it
            else:
                group[name] = value


def _made_in_steps(old: Mapping[str, Any], asked: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return what neither script has named: the optimizer keeps it in the group."""
    named = {*asked, *old["requested"]}
    return {name: value for name, value in old["current"].items() if name not in named}


def _typed(old: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group of an earlier release, whose values were plain JSON, with types.

    Tuples were lists there, tensors were numbers, and what else there was, its `repr`.
    """
    requested, current = dict(old["requested"]), dict(old["current"])
    for name, value in asked.items():
        if name in requested and (is_opaque(value) or requested[name] == _plain(value)):
            requested[name] = value
            current[name] = _like(value, current.get(name))
    kept = {name: v for name, v in current.items() if name in requested or not _is_repr(v)}
    return {"requested": requested, "current": kept}


def _plain(value: Any) -> Any:
    """Return a typed value as an earlier release would have saved it; itself if it could not."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    ((kind, content),) = value.items()
    if kind in ("tuple", "size"):
        return _plain(content)
    if kind == "tensor" and len(content["values"]) == 1:
        return content["values"][0]
    return content[1] if kind == "numpy" else value


def _like(value: Any, plain: Any) -> Any:
    """Return the plain value of an earlier release in the form of a typed one."""
    if not isinstance(value, Mapping):
        return plain
    ((kind, content),) = value.items()
    if kind == "tuple":
        return {kind: [_like(v, p) for v, p in zip(content, plain, strict=False)]}
    if kind == "tensor":
        return {kind: {**content, "values": [plain]}}
    return {kind: [content[0], plain]} if kind == "numpy" else value


def _is_repr(value: object) -> bool:
    return isinstance(value, str) and value.startswith("<")


def _shown(value: Any) -> Any:
    """Return a typed value for people."""
    if is_opaque(value):
        return value["opaque"]
    return decode(value)


def _is_like(there: torch.Tensor, made: Any) -> bool:
    same = isinstance(made, torch.Tensor) and there.shape == made.shape
    return same and there.dtype == made.dtype


def _device_of(group: Mapping[str, Any]) -> torch.device:
    return next((p.device for p in group["params"]), torch.device("cpu"))
