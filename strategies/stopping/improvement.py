"""Which way a metric gets better, and by how much it must."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ..errors import ConfigError

Mode: TypeAlias = Literal["min", "max"]
Delta: TypeAlias = Literal["absolute", "relative"]

_LOWER_IS_BETTER = (
    *("loss", "nll", "cross_entropy", "error", "error_rate"),
    *("mse", "rmse", "mae", "perplexity", "bits_per_byte", "wer", "cer"),
)
_HIGHER_IS_BETTER = (
    *("accuracy", "acc", "top_1", "top_3", "top_5", "top1", "top3", "top5"),
    *("precision", "recall", "f1", "macro_f1", "micro_f1", "weighted_f1"),
    *("r2", "auc", "auroc", "iou", "miou", "dice", "bleu"),
)
KNOWN_MODES: dict[str, Mode] = {
    **dict.fromkeys(_LOWER_IS_BETTER, "min"),
    **dict.fromkeys(_HIGHER_IS_BETTER, "max"),
}
"""Names, after the last slash, that have one direction only. Others need a `mode`."""


def resolve_mode(mode: str | None, monitor: str, *, where: str) -> Mode:
    """Return the direction in which `monitor` gets better.

    Args:
        mode: what the user said; None: the metric's name decides.
        monitor: such as "val/loss".
        where: the class whose argument it is, for the message.

    Raises:
        ConfigError: no mode for a name that is not known, or one that contradicts the name.
    """
    name = monitor.rpartition("/")[2]
    known = KNOWN_MODES.get(name)
    if mode is None and known is None:
        raise ConfigError(
            f'{where}("{monitor}") needs mode="min" or mode="max": whether a lower or a higher '
            f'"{name}" is better is not known.'
        )
    if mode not in (None, "min", "max"):
        raise ConfigError(f'{where}("{monitor}", mode="{mode}"): choose from max, min.')
    if mode is not None and known not in (None, mode):
        raise ConfigError(
            f'{where}("{monitor}", mode="{mode}"): a {_better(known)} {name} is better. Leave mode '
            "out, or give a metric with another meaning another name."
        )
    return "min" if (mode or known) == "min" else "max"


def _better(mode: str | None) -> str:
    return "lower" if mode == "min" else "higher"


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """What counts as better: strictly more than a margin, in the metric's own direction."""

    mode: Mode
    min_delta: float
    delta: Delta

    def is_better(self, value: float, reference: float | None) -> bool:
        """Return whether `value` improves on `reference`, by more than the margin.

        A relative margin is a share of the reference's size, |reference|: so it is a margin for a
        negative metric too. What is not finite is never better; all that is finite beats None.
        """
        if not math.isfinite(value):
            return False
        if reference is None:
            return True
        margin = self.min_delta * (abs(reference) if self.delta == "relative" else 1.0)
        return self.gain(value, reference) > margin

    def gain(self, value: float, reference: float) -> float:
        """Return by how much `value` is better; negative where it is worse."""
        return reference - value if self.mode == "min" else value - reference


def margin_of(min_delta: float, delta: Delta) -> str:
    """Return what a sentence adds to "improve"."""
    if not min_delta:
        return ""
    return (
        f" by more than {100 * min_delta:g} %"
        if delta == "relative"
        else (f" by more than {min_delta:g}")
    )


def require_margin(min_delta: float, delta: str, *, where: str) -> None:
    """Refuse a margin that means nothing.

    Raises:
        ConfigError: it is negative or not finite, a relative one is 1 or more, or of neither kind.
    """
    if delta not in ("absolute", "relative"):
        raise ConfigError(f'{where}(delta="{delta}"): choose from absolute, relative.')
    if not 0 <= min_delta < math.inf:
        raise ConfigError(f"{where}(min_delta={min_delta}) must not be negative, and be finite.")
    if delta == "relative" and min_delta >= 1:
        raise ConfigError(
            f'{where}(min_delta={min_delta}, delta="relative") asks for a gain of '
            f"{min_delta:.0%}; write 1 % as 0.01."
        )


def require_count(value: object, name: str, *, at_least: int, where: str) -> None:
    """Refuse what is no whole number of evaluations.

    Raises:
        ConfigError: it is no integer, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ConfigError(
            f"{where}({name}={value!r}) must be a whole number of evaluations, at least {at_least}."
        )


def require_finite(value: float | None, name: str, *, where: str) -> None:
    """Refuse a threshold that no value can pass, or every one.

    Raises:
        ConfigError: it is given and is not finite.
    """
    if value is not None and not math.isfinite(value):
        raise ConfigError(f"{where}({name}={value}) must be finite, or None.")
