"""What an evaluation means for the run: the best so far, a cut of the rate, a reason to stop."""

from __future__ import annotations

from dataclasses import dataclass, replace

from strategies import ConfigError, EarlyStopping, Metrics, ReduceOnPlateau
from strategies.stopping.improvement import margin_of

from ...run_folder.metric_text import is_table
from ..run_state import RunState, evaluation_of


@dataclass(frozen=True, kw_only=True)
class EvaluationRules:
    """The script's rules. Every method is a pure function of numbers that all ranks share."""

    stop: EarlyStopping | None
    plateau: ReduceOnPlateau | None

    @property
    def has_rules(self) -> bool:
        """Whether evaluations matter at all."""
        return self.stop is not None or self.plateau is not None

    def after(self, state: RunState, metrics: Metrics) -> tuple[RunState, bool, str | None]:
        """Return the state after an evaluation, whether it is the best, and of a cut a sentence.

        The rate is cut before early stopping counts, so that a cut can give grace.

        What they monitor must have been measured: `require_measured`.
        """
        cut: str | None = None
        if self.plateau is not None:
            value = metrics[self.plateau.monitor]
            plateau, was_cut = self.plateau.update(state.plateau, value)
            if was_cut:
                margin = margin_of(self.plateau.min_delta, self.plateau.delta)
                cut = (
                    f"{self.plateau.monitor} did not improve{margin} in "
                    f"{self.plateau.patience} evaluations: learning rates are cut from "
                    f"{state.plateau.factor:g} to {plateau.factor:g} times the schedule's"
                )
            state = replace(state, plateau=plateau)
        if self.stop is None:
            return state, False, cut
        value = metrics[self.stop.monitor]
        stopper, is_best = self.stop.update(
            state.stopper, value, step=state.step, rate_was_cut=cut is not None
        )
        evaluation = evaluation_of(self.stop, value, state.step)
        return replace(state, stopper=stopper, evaluation=evaluation), is_best, cut

    def require_measured(self, metrics: Metrics, step: int) -> None:
        """Refuse an evaluation in which nothing was measured that a rule monitors.

        Raises:
            ConfigError: so it is, or it is no number.
        """
        for rule in self._rules:
            if rule.monitor not in metrics:
                raise ConfigError(
                    f'{type(rule).__name__} monitors "{rule.monitor}", and the evaluation after '
                    f"step {step} measured {sorted(metrics) or 'nothing'}. Call step.evaluate "
                    "whenever step.evaluation_due is true, or monitor one of these."
                )
            _require_number(rule, metrics)

    def require_measured_as(self, name: str, metrics: Metrics) -> None:
        """Refuse a first try of the evaluation `name` without what a rule monitors of it.

        Raises:
            ConfigError: so it is. What another evaluation is to measure is not known yet.
        """
        for rule in self._rules:
            if not rule.monitor.startswith(f"{name}/"):
                continue
            if rule.monitor not in metrics:
                raise ConfigError(
                    f'{type(rule).__name__} monitors "{rule.monitor}", and the evaluation of '
                    f"{name} returns {', '.join(sorted(metrics)) or 'no metric'}. Monitor one of "
                    "these, or return it from measure."
                )
            _require_number(rule, metrics)

    @property
    def _rules(self) -> list[EarlyStopping | ReduceOnPlateau]:
        return [rule for rule in (self.plateau, self.stop) if rule is not None]

    def asks_to_go_back(self, state: RunState) -> bool:
        """Return whether the newest evaluation calls for an earlier checkpoint."""
        return self.stop is not None and self.stop.asks_to_go_back(state.stopper)

    def resumed(self, state: RunState) -> tuple[RunState, list[str]]:
        """Return a restored state as the script's rules see it, and a sentence for each change."""
        stopper = state.stopper
        sentences: list[str] = []
        if self.stop is not None:
            stopper, sentences = self.stop.resumed(state.stopper)
        elif stopper.reason is not None:
            sentences = [
                f"early stopping: the run had stopped ({stopper.reason}); it is no longer "
                "configured, so the run continues"
            ]
            stopper = replace(stopper, reason=None)
        plateau = state.plateau
        if self.plateau is not None:
            plateau, more = self.plateau.resumed(state.plateau)
            sentences = sentences + more
        elif plateau.factor != 1.0:
            sentences.append(
                f"the plateau rule is no longer configured: its factor {plateau.factor:g} on the "
                "learning rates is dropped"
            )
            plateau = replace(plateau, factor=1.0)
        return replace(state, stopper=stopper, plateau=plateau), sentences


def _require_number(rule: EarlyStopping | ReduceOnPlateau, metrics: Metrics) -> None:
    if is_table(metrics[rule.monitor]):
        raise ConfigError(
            f'{type(rule).__name__} monitors "{rule.monitor}", which is a table. Monitor a number, '
            "such as metrics.accuracy or metrics.f1."
        )
