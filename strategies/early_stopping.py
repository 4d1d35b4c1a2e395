"""Early stopping as a pure function of reduced numbers: the same verdict on every rank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal, TypeAlias

from .errors import ConfigError

Mode: TypeAlias = Literal["min", "max"]


@dataclass(frozen=True, kw_only=True)
class EarlyStoppingState:
    """What every checkpoint keeps. The arguments are not part of it: the user's new ones win."""

    anchor: float | None = None
    """The value to beat by `min_delta`; it moves on real improvements only."""
    best: float | None = None
    """The best finite value seen, by however little."""
    best_step: int | None = None
    bad: int = 0
    """Evaluations in a row without a real improvement."""
    evaluations: int = 0
    reason: str | None = None
    """Why the run stopped, once it has."""

    def to_json(self) -> dict[str, float | int | str | None]:
        """What a checkpoint keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, float | int | str | None]) -> EarlyStoppingState:
        """Rebuild the state from a checkpoint."""
        return cls(**saved)  # type: ignore[arg-type]


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when `monitor` has not improved for `patience` evaluations in a row."""

    monitor: str
    """Name of the metric, such as "val/loss"."""
    mode: Mode = "min"
    """Whether a lower or a higher value is better."""
    patience: int = 5
    """Evaluations without improvement that are borne; the last of them stops the run."""
    min_delta: float = 0.0
    """An improvement must be larger than this, in the metric's own unit."""

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ConfigError(f'EarlyStopping(mode="{self.mode}"): choose from max, min.')
        if self.patience < 1:
            raise ConfigError(f"EarlyStopping(patience={self.patience}) must be at least 1.")
        if not self.min_delta >= 0:
            raise ConfigError(f"EarlyStopping(min_delta={self.min_delta}) must not be negative.")

    def update(
        self, state: EarlyStoppingState, value: float, *, step: int
    ) -> tuple[EarlyStoppingState, bool]:
        """Return the state after one evaluation, and whether its value is the best so far.

        A value that is not finite counts as an evaluation without improvement and never becomes
        the best.
        """
        state = replace(state, evaluations=state.evaluations + 1)
        is_best = math.isfinite(value) and (
            state.best is None or self._is_better(value, state.best, 0.0)
        )
        if is_best:
            state = replace(state, best=value, best_step=step)
        improved = math.isfinite(value) and (
            state.anchor is None or self._is_better(value, state.anchor, self.min_delta)
        )
        if improved:
            return replace(state, anchor=value, bad=0), is_best
        state = replace(state, bad=state.bad + 1)
        if state.bad >= self.patience:
            state = replace(state, reason=self._reason(state))
        return state, is_best

    def _is_better(self, value: float, reference: float, margin: float) -> bool:
        gain = reference - value if self.mode == "min" else value - reference
        return gain > margin

    def _reason(self, state: EarlyStoppingState) -> str:
        best = "never a finite value" if state.best is None else f"{state.best:.6g}"
        where = "" if state.best_step is None else f" at step {state.best_step}"
        return (
            f"{self.monitor} did not improve in {state.bad} evaluations in a row "
            f"(best {best}{where})"
        )
