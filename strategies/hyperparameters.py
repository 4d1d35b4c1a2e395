"""The optimizer's hyper-parameters, kept by parameter name.

Two sets are saved: what the script asked for, and what was in force. On a resume a value that the
script still asks for goes on as it was; one that the script has changed is the script's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from checkpointing import JSON

_NOT_HYPERPARAMETERS = ("params", "param_names")


def current_hyperparameters(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, JSON]]:
    """Return the JSON-able hyper-parameters of each parameter group."""
    return [
        {name: _plain(value) for name, value in group.items() if name not in _NOT_HYPERPARAMETERS}
        for group in groups
    ]


def to_json(
    names: Sequence[Sequence[str]],
    requested: Sequence[Mapping[str, JSON]],
    current: Sequence[Mapping[str, JSON]],
) -> list[JSON]:
    """Return what a checkpoint keeps: one entry a parameter group."""
    return [
        {"parameters": list(n), "requested": dict(r), "current": dict(c)}
        for n, r, c in zip(names, requested, current, strict=True)
    ]


def merge(
    names: Sequence[Sequence[str]],
    requested: Sequence[Mapping[str, JSON]],
    saved: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, JSON]], list[str]]:
    """Return the values to put in force in each group, and a sentence for each change.

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
        for name, value in asked.items():
            if old is None or name not in old["requested"]:
                continue
            if old["requested"][name] == value:
                values[name] = old["current"][name]
            else:
                before = old["requested"][name]
                changes.append(f"{name} of parameter group {number}: {before} -> {value}")
        merged.append(values)
    return merged, changes


def put_in_force(groups: Sequence[dict[str, Any]], values: Sequence[Mapping[str, JSON]]) -> None:
    """Write hyper-parameters into live parameter groups, keeping each value's own type."""
    for group, new in zip(groups, values, strict=True):
        for name, value in new.items():
            group[name] = tuple(value) if isinstance(group.get(name), tuple) else value  # type: ignore[arg-type]


def _plain(value: Any) -> JSON:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        plain: JSON = value.item()
        return plain
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value)
