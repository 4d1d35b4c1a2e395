"""Early stopping as a pure function of reduced numbers: the same verdict on every rank.

How it differs from other libraries, and why, is in docs/early_stopping.md; a test compares them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..errors import ConfigError
from .improvement import (
    Delta,
    Improvement,
    Mode,
    margin_of,
    require_count,
    require_finite,
    require_margin,
    resolve_mode,
)

_WHERE = "EarlyStopping"
_CHOICES = {"on_nonfinite": ("count", "stop", "rollback"), "restore": ("best", "last")}


@dataclass(frozen=True, kw_only=True)
class EarlyStoppingState:
    """State stored in every checkpoint. Arguments are not stored: those of the script apply."""

    monitor: str | None = None
    """The metric that the numbers below are of; None before the first evaluation."""
    mode: Mode | None = None
    anchor: float | None = None
    """The value to beat by `min_delta`; it changes only when it is beaten by more than that."""
    best: float | None = None
    """The best finite value seen, by any margin."""
    best_step: int | None = None
    last: float | None = None
    """The newest value, finite or not."""
    finite_step: int | None = None
    """The step of the newest value that was finite."""
    bad: int = 0
    """Counted evaluations in a row without improvement."""
    grace: int = 0
    """Evaluations still to come that do not count, because the learning rate was cut."""
    evaluations: int = 0
    reason: str | None = None
    """Why the run stopped; None before."""

    def to_json(self) -> dict[str, float | int | str | None]:
        """What a checkpoint keeps. JSON has no nan: a value that is not finite becomes a word."""
        return {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> EarlyStoppingState:
        """Rebuild the state from a checkpoint."""
        last = saved.get("last")
        return cls(**{**saved, "last": None if last is None else float(last)})


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when `monitor` has not improved for `patience` evaluations in a row.

    Raises:
        ConfigError: an invalid argument.
    """

    monitor: str
    """Name of the metric, such as "val/loss"."""
    mode: Mode | None = None
    """Whether a lower or a higher value is better. Required if the name does not imply it."""
    patience: int = 5
    """Evaluations in a row without improvement after which the run stops; at least 1."""
    min_delta: float = 0.0
    """An improvement must be larger than this."""
    delta: Delta = "absolute"
    """Unit of `min_delta`: that of the metric, or a fraction of the value to beat."""
    baseline: float | None = None
    """The value that the first improvement must beat. None: any finite value is one."""
    start_after: int = 0
    """Number of first evaluations that cannot stop the run, unless they reach `target`."""
    target: float | None = None
    """Stop when a value is at least as good as this."""
    diverge: float | None = None
    """Stop when a value is worse than this."""
    on_nonfinite: Literal["count", "stop", "rollback"] = "count"
    """For nan and inf: count as an evaluation without improvement, stop the run, or roll back to a
    checkpoint from when the value was finite and skip the data since."""
    restore: Literal["best", "last"] = "best"
    """Which weights the model holds after the run, and which are exported and tested."""
    grace_after_lr_cut: int = 0
    """The evaluation at which `ReduceOnPlateau` reduces the rate, and this many after it, do not
    count; 0: all count."""

    def __post_init__(self) -> None:
        require_count(self.patience, "patience", at_least=1, where=_WHERE)
        require_count(self.start_after, "start_after", at_least=0, where=_WHERE)
        require_count(self.grace_after_lr_cut, "grace_after_lr_cut", at_least=0, where=_WHERE)
        require_margin(self.min_delta, self.delta, where=_WHERE)
        for name in ("baseline", "target", "diverge"):
            require_finite(getattr(self, name), name, where=_WHERE)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f'{_WHERE}({name}="{getattr(self, name)}"): choose from {", ".join(choices)}.'
                )
        # Resolved once and kept: the mode is part of what two starts must mean alike.
        object.__setattr__(self, "mode", resolve_mode(self.mode, self.monitor, where=_WHERE))
        self._require_order()

    def update(
        self, state: EarlyStoppingState, value: float, *, step: int, rate_was_cut: bool = False
    ) -> tuple[EarlyStoppingState, bool]:
        """Return the state after one evaluation, and whether its value is the best so far.

        Args:
            state: before this evaluation.
            value: of `monitor`, reduced over the ranks. What is not finite never becomes the best.
            step: optimizer steps completed.
            rate_was_cut: this very evaluation made `ReduceOnPlateau` cut the learning rate.
        """
        assert self.mode is not None
        state = replace(
            state,
            monitor=self.monitor,
            mode=self.mode,
            last=value,
            evaluations=state.evaluations + 1,
        )
        if math.isfinite(value):
            state = replace(state, finite_step=step)
        is_best = self._improvement(margin=False).is_better(value, state.best)
        if is_best:
            state = replace(state, best=value, best_step=step)
        state = self._counted(state, value, rate_was_cut and self.grace_after_lr_cut > 0)
        return replace(state, reason=self._verdict(state)), is_best

    def asks_to_go_back(self, state: EarlyStoppingState) -> bool:
        """Return whether the newest value calls for an earlier checkpoint."""
        return (
            self.on_nonfinite == "rollback"
            and state.last is not None
            and not math.isfinite(state.last)
            and state.evaluations > self.start_after
        )

    def resumed(self, saved: EarlyStoppingState) -> tuple[EarlyStoppingState, list[str]]:
        """Return the state as these arguments see it, and a sentence for each change.

        A run that has stopped stays stopped, unless these arguments would not have stopped it.
        """
        if saved.monitor is not None and (saved.monitor, saved.mode) != (self.monitor, self.mode):
            return EarlyStoppingState(), [
                f"early stopping monitors {self.monitor} ({self.mode}) instead of {saved.monitor} "
                f"({saved.mode}): its count and its best value start over"
            ]
        if saved.reason is None or saved.last is None:
            return saved, []  # without a last value nothing can be judged anew
        verdict = self._verdict(saved)
        if verdict is not None:
            return saved, []
        return replace(saved, reason=None), [
            f"early stopping: the run had stopped ({saved.reason}); by its new arguments it has "
            "not, and continues"
        ]

    def _counted(
        self, state: EarlyStoppingState, value: float, begins_grace: bool
    ) -> EarlyStoppingState:
        """Return the state with its anchor, and with what counts against the run."""
        grace = self.grace_after_lr_cut if begins_grace else max(0, state.grace - 1)
        reference = self.baseline if state.anchor is None else state.anchor
        if self._improvement().is_better(value, reference):
            return replace(state, anchor=value, bad=0, grace=grace)
        counts = not begins_grace and state.grace == 0 and state.evaluations > self.start_after
        return replace(state, bad=state.bad + counts, grace=grace)

    def _verdict(self, state: EarlyStoppingState) -> str | None:
        """Return why a run in this state stops, or None."""
        value, exact = state.last, self._improvement(margin=False)
        if value is None:
            return None
        name, after = self.monitor, f"after {state.evaluations} evaluations"
        if self.target is not None and math.isfinite(value) and exact.gain(value, self.target) >= 0:
            return f"{name} reached {value:.6g}, and the target is {self.target:.6g}"
        if state.evaluations <= self.start_after:
            return None
        if self.on_nonfinite == "stop" and not math.isfinite(value):
            return f"{name} is {value} {after}"
        if self.diverge is not None and exact.gain(value, self.diverge) < 0:
            return f"{name} is {value:.6g} {after}, worse than the bound {self.diverge:.6g}"
        if state.bad >= self.patience:
            best = "never a finite value" if state.best is None else f"{state.best:.6g}"
            where = "" if state.best_step is None else f" at step {state.best_step}"
            margin = margin_of(self.min_delta, self.delta)
            return (
                f"{name} did not improve{margin} in {state.bad} evaluations in "
                f"a row (best {best}{where})"
            )
        return None

    def _improvement(self, *, margin: bool = True) -> Improvement:
        assert self.mode is not None
        return Improvement(
            mode=self.mode, min_delta=self.min_delta if margin else 0.0, delta=self.delta
        )

    def _require_order(self) -> None:
        """Refuse a target that every value reaches before it can diverge."""
        if self.target is None or self.diverge is None:
            return
        if self._improvement(margin=False).gain(self.target, self.diverge) <= 0:
            raise ConfigError(
                f"{_WHERE}(target={self.target}, diverge={self.diverge}): with mode={self.mode} "
                "the target must be better than the bound beyond which a run has diverged."
            )
