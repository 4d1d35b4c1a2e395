"""Tensors that a model keeps outside of its parameters and buffers: attributes, lists, closures.

`nn.Module` does not know them, so what moves or fills a module leaves them out.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from types import CellType, FunctionType, ModuleType
from typing import Any, TypeAlias

import torch
from torch import nn

Put: TypeAlias = Callable[[Any], None]
_REGISTERED = ("_parameters", "_buffers", "_modules")
_LONGEST = 100_000
"""Of a list or dict that may hold tensors of a model; what is longer is data."""
_CACHE_DEPTH = 4
"""From a function's cache to the tensors in what it has returned."""


@dataclass(frozen=True)
class Plain:
    """A tensor on the meta device, and where it is kept."""

    name: str
    """Such as "layers.0.angles" or "tables[1]"."""
    tensor: torch.Tensor
    put: Put | None
    """Puts another in its place; None: that cannot be done."""


def plain_tensors(model: nn.Module) -> Iterator[Plain]:
    """Yield the tensors without memory that are kept outside of parameters and buffers."""
    seen = {id(module) for module in model.modules()}
    for prefix, module in model.named_modules():
        for key, value in list(vars(module).items()):
            if key not in _REGISTERED:
                name = f"{prefix}.{key}" if prefix else key
                yield from _walk(
                    value, name, functools.partial(vars(module).__setitem__, key), seen
                )


def forget_cached() -> None:
    """Empty the caches of functions that have returned tensors without memory."""
    for found in gc.get_objects():
        # Not isinstance: it asks the object, and some answer with a warning.
        if type(found) is functools._lru_cache_wrapper and _holds_meta(found):
            found.cache_clear()


def _walk(value: Any, name: str, put: Put | None, seen: set[int]) -> Iterator[Plain]:
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            yield Plain(name, value, put)
        return
    if id(value) in seen or isinstance(value, type | ModuleType | str | bytes | int | float):
        return
    seen.add(id(value))
    for child, suffix, put_child in _children(value, put):
        yield from _walk(child, name + suffix, put_child, seen)


def _children(value: Any, put: Put | None) -> Iterator[tuple[Any, str, Put | None]]:
    if isinstance(value, dict | list | tuple | set | frozenset) and len(value) > _LONGEST:
        return
    if isinstance(value, dict):
        for key, child in list(value.items()):
            yield child, f"[{key!r}]", functools.partial(value.__setitem__, key)
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield child, f"[{number}]", functools.partial(value.__setitem__, number)
    elif isinstance(value, tuple):
        items = list(value)
        for number, child in enumerate(value):
            yield child, f"[{number}]", _in_tuple(type(value), items, number, put)
    elif isinstance(value, set | frozenset):
        yield from ((child, "", None) for child in value)
    elif isinstance(value, functools.partial):
        yield from ((child, f"(argument {n})", None) for n, child in enumerate(value.args))
        yield value.keywords, "", None
    elif isinstance(value, FunctionType):
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield from _in_cell(cell, variable)
    else:
        yield from _attributes(value)


def _in_tuple(kind: type, items: list[Any], number: int, put: Put | None) -> Put | None:
    if put is None:
        return None

    def put_item(new: Any) -> None:
        items[number] = new
        put(kind._make(items) if hasattr(kind, "_make") else kind(items))

    return put_item


def _in_cell(cell: CellType, variable: str) -> Iterator[tuple[Any, str, Put]]:
    try:
        child = cell.cell_contents
    except ValueError:  # not bound yet
        return
    yield child, f"(variable {variable})", functools.partial(setattr, cell, "cell_contents")


def _attributes(value: Any) -> Iterator[tuple[Any, str, Put]]:
    if isinstance(value, nn.Module):
        for store in _REGISTERED:
            for key, child in list(vars(value)[store].items()):
                yield child, f".{key}", functools.partial(vars(value)[store].__setitem__, key)
    named = dict(getattr(value, "__dict__", {}))
    slots = getattr(type(value), "__slots__", ())
    for key in (slots,) if isinstance(slots, str) else slots:
        if hasattr(value, key):
            named[key] = getattr(value, key)
    for key, child in named.items():
        if not (isinstance(value, nn.Module) and key in _REGISTERED):
            yield child, f".{key}", functools.partial(object.__setattr__, value, key)


def _holds_meta(found: Any) -> bool:
    todo: Collection[Any] = [found]
    for _ in range(_CACHE_DEPTH):
        todo = [one for one in gc.get_referents(*todo) if not isinstance(one, type | ModuleType)]
        if any(isinstance(one, torch.Tensor) and one.is_meta for one in todo):
            return True
    return False
