"""What a script asks of its own loop: when to evaluate, to save, to stop."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from strategies import ConfigError, EarlyStopping

from ..recipe.interval import Every, parse_every


@dataclass(frozen=True, kw_only=True)
class Due:
    """An interval of a loop whose steps of an epoch are not counted in advance."""

    epochs: int | None = None
    """At the ends of epochs; else `every` counts."""
    every: Every = field(default_factory=Every)

    def is_due(self, step: int, epoch: int, *, ends_epoch: bool) -> bool:
        """Return whether the interval ends here: the same on every rank.

        Args:
            step: optimizer steps completed.
            epoch: 0-based.
            ends_epoch: whether the batch was the last of its epoch.
        """
        if self.epochs is not None:
            return ends_epoch and (epoch + 1) % self.epochs == 0
        return self.every.is_due(step)


def parse_due(text: str, *, name: str) -> Due:
    """Read an interval such as "100 steps", "2 epochs", "5 min" or "auto".

    Raises:
        ConfigError: text that is no interval.
    """
    match = re.fullmatch(r"\s*(\d+)\s*epochs?\s*", text)
    if match is not None and int(match[1]) > 0:
        return Due(epochs=int(match[1]))
    if "epoch" in text:
        raise ConfigError(
            f'{name}="{text}": in a loop of its own a script is asked at the ends of whole epochs. '
            'Write for example "1 epoch" or "100 steps".'
        )
    return Due(every=parse_every(text, name=name, steps_per_epoch=1))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Checked when it is made."""

    stop: EarlyStopping | None
    evaluate: Due
    save: Due
    keep: int
    log_every: int
    text: str
    """All of it, which must be the same on every rank."""

    @classmethod
    def of(
        cls, *, stop: EarlyStopping | None, evaluate: str, save: str, keep: int, log_every: int
    ) -> Settings:
        """Read what the script gives.

        Raises:
            ConfigError: a value that cannot work.
        """
        for name, value in (("keep", keep), ("log_every", log_every)):
            if value < 1:
                raise ConfigError(f"{name}={value} must be at least 1.")
        due = parse_due(evaluate, name="evaluate_every")
        if due.every.seconds is not None or due.every.auto:
            raise ConfigError(
                f'evaluate_every="{evaluate}" must be in steps or epochs: evaluations by a clock '
                "could not be repeated after a resume."
            )
        return cls(
            stop=stop,
            evaluate=due,
            save=parse_due(save, name="save_every"),
            keep=keep,
            log_every=log_every,
            text=repr((stop, evaluate, save, keep)),
        )
