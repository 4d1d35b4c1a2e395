"""Random generators that a data set, its transforms or a collate function keep for themselves.

`np.random.default_rng()` made in `__init__`, or a library's generator in a transform, runs on from
sample to sample: what it draws would depend on the number of ranks and loader workers, and begin
anew with each start. So they are looked for in what reads the samples, and seeded with each sample
as the global ones are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from .seeding import seed_of

_MOST_LOOKED_AT = 2000
"""Objects; more are data."""
_LONGEST = 64
"""Of the lists that are looked into."""
_NO_PARTS = (
    torch.Tensor,
    np.ndarray,
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
    type,
    ModuleType,
)
_BIT_GENERATORS = (
    np.random.PCG64,
    np.random.PCG64DXSM,
    np.random.MT19937,
    np.random.Philox,
    np.random.SFC64,
)
_FOREIGN = ("torch", "numpy", "builtins", "random")
"""Whose classes have no functions that read a generator of the script's by name."""


class KeptGenerators:
    """Those found in some objects, which are then seeded together."""

    def __init__(self, **roots: Any) -> None:
        """Look for them.

        Args:
            roots: what reads samples, by the name that begins those of its generators.
        """
        self._found = [(seed_of(name), one) for name, one in _generators(roots)]

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._found)

    def seed(self, value: int) -> None:
        """Seed each of them, by its name, so that no two draw the same."""
        for own, generator in self._found:
            _seed(generator, value ^ own)

    def are_as_seeded(self, value: int) -> bool:
        """Return whether nothing was drawn since `seed(value)`; seeds them again."""
        before = [_state(generator) for _, generator in self._found]
        self.seed(value)
        return before == [_state(generator) for _, generator in self._found]


def _generators(roots: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    waiting = list(roots.items())
    for name, one in waiting:  # grows while it is read: what is near comes first
        if id(one) in seen or len(seen) >= _MOST_LOOKED_AT:
            continue
        seen.add(id(one))
        if _is_generator(one):
            yield name, one
        elif not isinstance(one, _NO_PARTS):
            waiting.extend((f"{name}.{part}", value) for part, value in _parts(one))


def _is_generator(one: Any) -> bool:
    """Return whether it is one that can be seeded, and is not a global one; pure."""
    if isinstance(one, np.random.Generator):
        return type(one.bit_generator) in _BIT_GENERATORS
    if isinstance(one, np.random.RandomState):
        return one is not np.random.mtrand._rand
    if isinstance(one, random.Random):
        return type(one) is random.Random and one is not random._inst
    return isinstance(one, torch.Generator) and one is not torch.default_generator


def _parts(one: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(one, Mapping):
        if type(one) is dict and len(one) <= _LONGEST:
            yield from ((str(key), value) for key, value in one.items())
    elif isinstance(one, list | tuple | set):
        if len(one) <= _LONGEST:
            yield from ((str(number), value) for number, value in enumerate(one))
    elif isinstance(one, partial):
        yield from (("func", one.func), ("args", one.args), ("keywords", one.keywords))
    elif isinstance(one, MethodType):
        yield from (("self", one.__self__), ("func", one.__func__))
    elif isinstance(one, FunctionType):
        yield from _read_by(one)
    else:
        yield from vars(one).items() if hasattr(one, "__dict__") else ()
        for cls in type(one).__mro__:
            if cls.__module__.partition(".")[0] not in _FOREIGN:
                functions = [f for f in vars(cls).values() if isinstance(f, FunctionType)]
                yield from ((function.__name__, function) for function in functions)


def _read_by(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield what a function has by closure, and the generators that it reads by a global name."""
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not set yet
            continue
    for name in function.__code__.co_names:
        if _is_generator(value := function.__globals__.get(name)):
            yield name, value


def _seed(generator: Any, value: int) -> None:
    if isinstance(generator, np.random.Generator):
        kind: Any = type(generator.bit_generator)
        generator.bit_generator.state = kind(value).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(value & 0xFFFFFFFF)
    elif isinstance(generator, random.Random):
        generator.seed(value)
    else:
        generator.manual_seed(value)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return repr(generator.get_state())
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state().tolist()
