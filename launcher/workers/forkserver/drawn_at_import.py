"""Random generators that an import has seeded by chance: each rank is to have numbers of its own.

A rank that is forked from the fork server has those of the server; a Python of its own would have
drawn others. `random` sees to its own global generator after a fork; torch's and numpy's are global
too. Others are found while modules are preloaded: which of them were seeded by chance, and not by a
number, can only be seen when it happens.
"""

import gc
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class DrawnAtImport:
    """The generators that the imports of this process have seeded by chance."""

    def __init__(self) -> None:
        self._of_random: weakref.WeakSet[random.Random] = weakref.WeakSet()
        self._of_numpy: list[Any] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note the generators that are made and seeded by chance meanwhile."""
        entropies: set[int] = set()
        with self._watched_random(), _watched_numpy(entropies.add):
            yield
        if entropies:
            self._of_numpy += [one for one in _bit_generators() if _entropy_of(one) in entropies]

    def renew(self) -> None:
        """Seed them by chance once more, and torch's and numpy's global ones. Called in a rank."""
        if (torch := sys.modules.get("torch")) is not None:
            # The CPU's alone: those of accelerators begin with a number that is always the same.
            torch.default_generator.seed()
        if (numpy_random := sys.modules.get("numpy.random")) is not None:
            numpy_random.seed()
            for one in self._of_numpy:
                one.state = type(one)().state
        for generator in self._of_random:
            generator.seed()

    @contextmanager
    def _watched_random(self) -> Iterator[None]:
        original, noted = random.Random.seed, self._of_random

        def seed(generator: random.Random, a: Any = None, version: int = 2) -> None:
            original(generator, a, version)
            if a is None:
                noted.add(generator)
            else:
                noted.discard(generator)

        random.Random.seed = seed  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            random.Random.seed = original  # type: ignore[method-assign]


@contextmanager
def _watched_numpy(note: Callable[[int], None]) -> Iterator[None]:
    """Let each number that numpy takes from the system for a seed be noted."""
    try:
        from numpy.random import bit_generator
    except ImportError:  # there is none, or it is another one
        yield
        return
    names: dict[str, Any] = vars(bit_generator)
    original = names.get("randbits")

    def randbits(k: int) -> int:
        assert original is not None
        value: int = original(k)
        note(value)
        return value

    if original is not None:
        names["randbits"] = randbits
    try:
        yield
    finally:
        if original is not None:
            names["randbits"] = original


def _bit_generators() -> Iterator[Any]:
    """Yield what is inside of each Generator and RandomState of this process."""
    from numpy.random import BitGenerator, Generator, RandomState

    for one in gc.get_objects():
        kind = type(one)  # no isinstance: that would ask each proxy for what it stands for
        if issubclass(kind, BitGenerator):
            yield one
        elif issubclass(kind, Generator):
            yield one.bit_generator
        elif issubclass(kind, RandomState):
            yield one._bit_generator


def _entropy_of(bits: Any) -> int | None:
    """Return the number that a bit generator was seeded with; None where it is another thing."""
    entropy = getattr(getattr(bits, "seed_seq", None), "entropy", None)
    return entropy if isinstance(entropy, int) else None
