"""How often: "100 steps", "1 epoch", "5 min", "auto"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from strategies import ConfigError

_UNITS = {
    "step": ("steps", 1.0),
    "epoch": ("epochs", 1.0),
    "s": ("seconds", 1.0),
    "sec": ("seconds", 1.0),
    "second": ("seconds", 1.0),
    "min": ("seconds", 60.0),
    "minute": ("seconds", 60.0),
    "h": ("seconds", 3600.0),
    "hour": ("seconds", 3600.0),
}


@dataclass(frozen=True, kw_only=True)
class Every:
    """An interval; exactly one of the three is set."""

    steps: int | None = None
    """Optimizer steps."""
    seconds: float | None = None
    auto: bool = False
    """In time, from what a save costs; see `save_pace`."""

    def is_due(self, step: int) -> bool:
        """Whether `step` completed optimizer steps end an interval that is counted in steps."""
        return self.steps is not None and step % self.steps == 0


def parse_every(text: str, *, name: str, steps_per_epoch: int) -> Every:
    """Read an interval such as "100 steps", "0.5 epoch", "5 min", "1 h" or "auto".

    Args:
        text: what the user wrote.
        name: the option, for the message.
        steps_per_epoch: turns epochs into steps.

    Raises:
        ConfigError: text that is no interval, or one below a step.
    """
    if text.strip() == "auto":
        return Every(auto=True)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+?)s?\s*", text)
    unit = _UNITS.get(match[2]) or _UNITS.get(match[2] + "s") if match else None
    if match is None or unit is None:
        raise ConfigError(
            f'{name}="{text}" is no interval. Write for example "100 steps", "1 epoch", "5 min".'
        )
    kind, factor = unit
    amount = float(match[1]) * factor
    if kind == "seconds":
        if amount <= 0:
            raise ConfigError(f'{name}="{text}" must be longer than 0 seconds.')
        return Every(seconds=amount)
    steps = amount * (steps_per_epoch if kind == "epochs" else 1)
    if steps < 1 or (kind == "steps" and steps != int(steps)):
        raise ConfigError(f'{name}="{text}" is {steps:g} optimizer steps; use a whole number >= 1.')
    return Every(steps=round(steps))
