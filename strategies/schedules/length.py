"""How long a piece of a schedule is: in optimizer steps, epochs, or a share of the run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import ConfigError

Length: TypeAlias = "int | str"
"""A whole number of steps, or "100 steps", "5 epochs", "10%" (of the run)."""

_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?|%)\s*")


@dataclass(frozen=True, kw_only=True)
class Span:
    """How long a run is."""

    total_steps: int
    """Optimizer steps of the whole run."""
    steps_per_epoch: int | None = None
    """None where nobody knows: lengths in epochs are refused then."""


def require_length(length: object, *, where: str) -> Length:
    """Return the length as it was given, once it is known to be one.

    Raises:
        ConfigError: it is none, or is not longer than 0.
    """
    if isinstance(length, int) and not isinstance(length, bool):
        if length < 1:
            raise ConfigError(f"{where}: {length} steps must be at least one step.")
        return length
    match = _TEXT.fullmatch(length) if isinstance(length, str) else None
    if match is None:
        raise ConfigError(
            f"{where}: {length!r} is no length. Write a whole number of steps, or for example "
            '"100 steps", "5 epochs", "10%" (of the run).'
        )
    amount, unit = float(match[1]), match[2]
    if amount <= 0 or (unit == "%" and amount > 100):
        raise ConfigError(f'{where}: "{length}" must be more than 0, and at most 100%.')
    if unit.startswith("step") and amount != int(amount):
        raise ConfigError(f'{where}: "{length}" must be a whole number of steps.')
    return str(length)


def steps_of(length: Length, span: Span, *, where: str) -> int:
    """Return a length in optimizer steps of this run, rounded to the nearest, at least 1.

    Raises:
        ConfigError: it is in epochs, and nothing says how many steps an epoch has.
    """
    if isinstance(length, int):
        return length
    match = _TEXT.fullmatch(length)
    assert match is not None, "require_length has let it pass"
    amount, unit = float(match[1]), match[2]
    if unit == "%":
        return max(1, round(amount / 100 * span.total_steps))
    if unit.startswith("step"):
        return int(amount)
    if span.steps_per_epoch is None:
        raise ConfigError(
            f'{where}: "{length}" is in epochs, and how many steps an epoch has is not known here. '
            "Give steps_per_epoch, or the length in steps."
        )
    return max(1, round(amount * span.steps_per_epoch))
