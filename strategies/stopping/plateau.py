"""Cutting the learning rate when a metric stops improving: a saved factor on top of a schedule.

Decided where all ranks know the same reduced number, by a pure function, like early stopping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import ConfigError
from .improvement import (
    Delta,
    Improvement,
    Mode,
    require_count,
    require_margin,
    resolve_mode,
)

_WHERE = "ReduceOnPlateau"


@dataclass(frozen=True, kw_only=True)
class PlateauState:
    """State stored in every checkpoint; the arguments are not stored."""

    monitor: str | None = None
    mode: Mode | None = None
    factor: float = 1.0
    """What the schedule's rates are multiplied with."""
    anchor: float | None = None
    """The value to beat by `min_delta`."""
    bad: int = 0
    """Evaluations in a row without improvement, since the last cut."""
    cooldown: int = 0
    """Evaluations still to come that do not count."""

    def to_json(self) -> dict[str, float | int | str | None]:
        """What a checkpoint keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> PlateauState:
        """Rebuild the state from a checkpoint."""
        return cls(**saved)


@dataclass(frozen=True)
class ReduceOnPlateau:
    """Multiply the learning rates when `monitor` has not improved for `patience` evaluations.

    Raises:
        ConfigError: an invalid argument.
    """

    monitor: str
    """Name of the metric, such as "val/loss"."""
    mode: Mode | None = None
    """Whether a lower or a higher value is better. Required if the name does not imply it."""
    factor: float = 0.1
    """Factor of each reduction."""
    patience: int = 5
    """Evaluations in a row without improvement after which the rate is reduced; at least 1."""
    min_delta: float = 0.0
    """An improvement must be larger than this."""
    delta: Delta = "absolute"
    """Unit of `min_delta`: that of the metric, or a fraction of the value to beat."""
    cooldown: int = 0
    """Evaluations after a reduction that do not count."""
    floor: float = 0.0
    """Lower limit of all reductions together, as a factor on the schedule's rate."""

    def __post_init__(self) -> None:
        require_count(self.patience, "patience", at_least=1, where=_WHERE)
        require_count(self.cooldown, "cooldown", at_least=0, where=_WHERE)
        require_margin(self.min_delta, self.delta, where=_WHERE)
        if not 0 < self.factor < 1:
            raise ConfigError(f"{_WHERE}(factor={self.factor}) must be between 0 and 1.")
        if not 0 <= self.floor < 1:
            raise ConfigError(
                f"{_WHERE}(floor={self.floor}) must be at least 0 and below 1: it is a factor on "
                "the schedule's rate, not a rate."
            )
        object.__setattr__(self, "mode", resolve_mode(self.mode, self.monitor, where=_WHERE))

    def update(self, state: PlateauState, value: float) -> tuple[PlateauState, bool]:
        """Return the state after one evaluation, and whether it cut the rate.

        Args:
            state: before this evaluation.
            value: of `monitor`, reduced over the ranks. What is not finite is no improvement.
        """
        assert self.mode is not None
        rule = Improvement(mode=self.mode, min_delta=self.min_delta, delta=self.delta)
        state = replace(state, monitor=self.monitor, mode=self.mode)
        cooldown = max(0, state.cooldown - 1)
        if rule.is_better(value, state.anchor):
            return replace(state, anchor=value, bad=0, cooldown=cooldown), False
        bad = state.bad + (state.cooldown == 0)
        if bad < self.patience or state.factor <= self.floor:
            return replace(state, bad=bad, cooldown=cooldown), False
        factor = max(self.floor, state.factor * self.factor)
        return replace(state, factor=factor, bad=0, cooldown=self.cooldown), True

    def resumed(self, saved: PlateauState) -> tuple[PlateauState, list[str]]:
        """Return the state as these arguments see it, and a sentence for each change."""
        if saved.monitor is None or (saved.monitor, saved.mode) == (self.monitor, self.mode):
            return saved, []
        return PlateauState(factor=saved.factor), [
            f"the plateau rule monitors {self.monitor} ({self.mode}) instead of {saved.monitor} "
            f"({saved.mode}): it keeps its factor {saved.factor:g} and its count starts over"
        ]
