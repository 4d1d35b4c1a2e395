"""The tensors of a batch, whatever holds them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Any

import torch

Change = Callable[[torch.Tensor], torch.Tensor]


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a (nested) batch to `device`.

    Inside dicts and other mappings, lists, tuples, named tuples and dataclasses, and in any object
    with a method `to` of its own, which is asked to move itself. Anything else stays what it is.
    """

    def moved(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device, non_blocking=True)
        if callable(getattr(value, "to", None)) and not isinstance(value, type):
            cls: type = type(value)
            options = {"non_blocking": True} if _knows_non_blocking(cls) else {}
            result = value.to(device, **options)
            return value if result is None else result  # some do it in place
        return _rebuilt(value, moved)

    return moved(batch)


def map_tensors(batch: Any, change: Change) -> Any:
    """Return a batch with every tensor changed that is in one of the containers of `to_device`."""

    def changed(value: Any) -> Any:
        return change(value) if isinstance(value, torch.Tensor) else _rebuilt(value, changed)

    return changed(batch)


def _rebuilt(value: Any, each: Callable[[Any], Any]) -> Any:
    if type(value) is dict:
        return {key: each(item) for key, item in value.items()}
    if isinstance(value, dict | UserDict):  # with what else it holds, such as a default
        new = copy.copy(value)
        for key, item in value.items():
            new[key] = each(item)
        return new
    if isinstance(value, Mapping):
        return type(value)({key: each(item) for key, item in value.items()})  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(each, value))
    if isinstance(value, list | tuple):
        return type(value)(map(each, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        same = copy.copy(value)
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):  # also in a frozen one, and without its __post_init__
                object.__setattr__(same, field.name, each(getattr(value, field.name)))
        return same
    return value


@functools.cache
def _knows_non_blocking(cls: type) -> bool:
    try:
        return "non_blocking" in inspect.signature(cls.to).parameters  # type: ignore[attr-defined]
    except (TypeError, ValueError, AttributeError):
        return False
