"""What a module does to a list, a dict or a dataclass that it is given, done to the caller's.

Engines that put a node on what goes into a module give it copies of the containers around: torch's
fully_shard of those in which a tensor requires a gradient or is cast, DeepSpeed's stage 3 of each
list. What the module appends, such as a loss of its own, would be lost there without a word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def containers_as_given(
    modules: Iterable[nn.Module], *, engine_comes_first: bool
) -> Iterator[None]:
    """Hook modules before and after an engine hooks them, within.

    Args:
        modules: that the engine gives copies to.
        engine_comes_first: whether it puts its hooks before those that a module has.
    """
    given = [(module, _Given()) for module in modules]
    for module, one in given:
        hook = one.note_copies if engine_comes_first else one.note
        module.register_forward_pre_hook(hook, with_kwargs=True, prepend=engine_comes_first)
    yield
    for module, one in given:
        hook = one.note if engine_comes_first else one.note_copies
        module.register_forward_pre_hook(hook, with_kwargs=True, prepend=engine_comes_first)
        module.register_forward_hook(one.give_back, always_call=True)


class _Given:
    """Of one module, the calls that are under way."""

    def __init__(self) -> None:
        self._calls: list[Any] = []

    def note(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        """Before the engine."""
        if not torch.compiler.is_compiling():
            self._calls.append((args, kwargs))

    def note_copies(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        """After the engine, before the module."""
        if self._calls:
            self._calls[-1] = list(_copies(self._calls[-1], (args, kwargs)))

    def give_back(self, _module: nn.Module, _args: Any, _result: Any) -> None:
        """After the module, also where it raises."""
        found = self._calls.pop() if self._calls else ()
        for copy in found if isinstance(found, list) else ():
            copy.give_back()


class _Copy:
    """A container that was given in the place of the caller's."""

    def __init__(self, original: Any, given: Any) -> None:
        self._original, self._given = original, given
        before, self._before = _entries(original), _entries(given)
        self._former = {id(self._before[key]): value for key, value in before.items()}

    def give_back(self) -> None:
        """Change the caller's as this one was changed."""
        now = _entries(self._given)
        same = now.keys() == self._before.keys() and list(now) == list(self._before)
        if same and all(value is self._before[key] for key, value in now.items()):
            return
        values = {key: self._former.get(id(value), value) for key, value in now.items()}
        if isinstance(self._original, list):
            self._original[:] = values.values()
        elif isinstance(self._original, dict):
            self._original.clear()
            self._original.update(values)
        else:
            for name, value in values.items():
                if getattr(self._original, name) is not value:
                    setattr(self._original, name, value)


def _copies(original: Any, given: Any) -> Iterator[_Copy]:
    """Yield the containers that were made anew, also inside of others; not tuples."""
    if original is given or type(original) is not type(given):
        return
    own, theirs = _entries(original), _entries(given)
    if own.keys() != theirs.keys():
        return
    if isinstance(original, list | dict) or _is_dataclass(original):
        yield _Copy(original, given)
    for key, value in own.items():
        yield from _copies(value, theirs[key])


def _entries(container: Any) -> dict[Any, Any]:
    if isinstance(container, dict):
        return dict(container)
    if isinstance(container, list | tuple):
        return dict(enumerate(container))
    if _is_dataclass(container):
        return {
            field.name: getattr(container, field.name) for field in dataclasses.fields(container)
        }
    return {}


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
