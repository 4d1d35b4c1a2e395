"""Learning-rate schedules as pure functions of the optimizer step.

A schedule returns a *factor* on each parameter group's base rate, never a rate, so the mistake of
returning an absolute rate as a factor cannot be made: a factor above 1 is refused.

    warmup(50).then(cosine(floor=0.1))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from .errors import ConfigError

Factor: TypeAlias = Callable[[int, int], float]
"""(0-based step inside the phase, steps of the phase) -> factor on the base rate."""


@dataclass(frozen=True)
class Schedule:
    """A factor as a function of the step, possibly in phases.

    `steps` is the phase's length; None means: to the end of the run.
    """

    factor: Factor
    steps: int | None = None
    following: Schedule | None = None

    def then(self, following: Schedule) -> Schedule:
        """Return this schedule, followed by another from the step at which this one ends.

        Raises:
            ConfigError: this schedule has no end, so nothing can follow it.
        """
        if self.steps is None:
            raise ConfigError("nothing can follow a schedule that lasts to the end of the run.")
        rest = following if self.following is None else self.following.then(following)
        return Schedule(self.factor, self.steps, rest)

    def __call__(self, step: int, total_steps: int) -> float:
        """Return the factor at 0-based optimizer step `step` of `total_steps`.

        Raises:
            ConfigError: the factor is negative, above 1 or not a number.
        """
        if self.steps is not None and step >= self.steps and self.following is not None:
            return self.following(step - self.steps, total_steps - self.steps)
        value = self.factor(step, self.steps if self.steps is not None else total_steps)
        if not 0.0 <= value <= 1.0:
            raise ConfigError(
                f"the schedule returned {value!r} at step {step}; it must return a factor "
                "between 0 and 1, which multiplies the learning rate of the optimizer."
            )
        return value


def constant() -> Schedule:
    """Return a schedule that leaves the base rate as it is."""
    return Schedule(lambda step, steps: 1.0)


def warmup(steps: int) -> Schedule:
    """Rise linearly over `steps` optimizer steps: 1/steps at the first, 1 at the last."""
    if steps < 1:
        raise ConfigError(f"warmup(steps={steps}) must last at least one step.")
    return Schedule(lambda step, _: min(1.0, (step + 1) / steps), steps)


def cosine(floor: float = 0.0) -> Schedule:
    """Fall from 1 to `floor` on half a cosine to the end of the run (Loshchilov, SGDR, 2017)."""
    if not 0.0 <= floor <= 1.0:
        raise ConfigError(f"cosine(floor={floor}) must be between 0 and 1: it is a factor.")

    def factor(step: int, steps: int) -> float:
        progress = min(1.0, step / max(1, steps - 1))
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return Schedule(factor)
