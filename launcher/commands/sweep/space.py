"""What is searched: NAME=VALUES, and the trials that follow from it; pure."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...errors import UsageError

Parameters = Mapping[str, str]
"""One trial's settings, as the script is given them."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A list of values."""

    values: tuple[str, ...]

    def draw(self, source: random.Random) -> str:
        """Return one of them."""
        return source.choice(self.values)


@dataclass(frozen=True, kw_only=True)
class Span:
    """All numbers from `low` to `high`."""

    low: float
    high: float
    is_log: bool = False

    def draw(self, source: random.Random) -> str:
        """Return one of them; on a logarithmic scale each factor of ten is as likely."""
        if self.is_log:
            return f"{math.exp(source.uniform(math.log(self.low), math.log(self.high))):.6g}"
        return f"{source.uniform(self.low, self.high):.6g}"


Space = Mapping[str, Choices | Span]


def parse_space(words: Sequence[str]) -> Space:
    """Read `lr=1e-4:1e-1:log`, `dropout=0:0.5`, `width=16,32,64`.

    Raises:
        UsageError: a word is none of these, or a name stands twice.
    """
    space: dict[str, Choices | Span] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name or not text:
            raise UsageError(
                f'"{word}" is no NAME=VALUES, such as lr=1e-4:1e-1:log or width=16,32.'
            )
        if name in space:
            raise UsageError(f"{name} is given twice: {word}.")
        space[name] = _span(word, text) if ":" in text else _choices(word, text)
    return space


def grid(space: Space) -> list[Parameters]:
    """Return every combination, the last name changing fastest.

    Raises:
        UsageError: a span has no end of values.
    """
    lists = []
    for name, values in space.items():
        if isinstance(values, Span):
            raise UsageError(f"{name} is a range, and a grid needs a list: {name}=A,B,C.")
        lists.append(values.values)
    return [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*lists)]


def draw(space: Space, num_trials: int, seed: int) -> list[Parameters]:
    """Return random settings: the same for a seed, and the first ones whatever the number."""
    return [
        {
            name: values.draw(random.Random(f"{seed} {number} {name}"))
            for name, values in space.items()
        }
        for number in range(num_trials)
    ]


def repeated(trials: Sequence[Parameters], *, seeds: int, folds: int) -> list[Parameters]:
    """Return each trial once for each seed and fold: `--seed` 0 to N-1, `--fold` of `--folds`."""
    found: list[Parameters] = []
    for parameters in trials:
        for seed, fold in itertools.product(range(max(1, seeds)), range(max(1, folds))):
            more = {"seed": str(seed)} if seeds else {}
            more |= {"fold": str(fold), "folds": str(folds)} if folds else {}
            found.append({**parameters, **more})
    return found


def _choices(word: str, text: str) -> Choices:
    values = tuple(part for part in text.split(",") if part)
    if len(set(values)) != len(values) or not values:
        raise UsageError(f"{word}: the values must be there, and different.")
    return Choices(values=values)


def _span(word: str, text: str) -> Span:
    low, high, *rest = text.split(":")
    try:
        span = Span(low=float(low), high=float(high), is_log=rest == ["log"])
    except ValueError:
        raise UsageError(f"{word} is no LOW:HIGH or LOW:HIGH:log of numbers.") from None
    if rest not in ([], ["log"]) or not span.low < span.high or (span.is_log and span.low <= 0):
        raise UsageError(f"{word}: needs LOW < HIGH, and above 0 on a logarithmic scale.")
    return span
