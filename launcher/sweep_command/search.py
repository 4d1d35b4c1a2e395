"""Which settings are tried next, and whether a trial is worth going on with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ..errors import UsageError
from .space import Choices, Parameters, Space


class Search(Protocol):
    """Numbered trials, the same ones after a restart."""

    def trial(self, number: int) -> Parameters | None:
        """Return the settings of a trial; None: there are no more."""

    def is_hopeless(self, number: int, step: int, value: float) -> bool:
        """Take an evaluation of a running trial, and tell whether to end it."""

    def finished(self, number: int, value: float | None, *, pruned: bool) -> None:
        """Take what a trial came to."""


class FixedSearch:
    """A list that is known from the start: a grid, or random settings of a seed."""

    def __init__(self, trials: Sequence[Parameters]) -> None:
        self._trials = trials

    def trial(self, number: int) -> Parameters | None:
        """Return the settings of a trial."""
        return self._trials[number] if number < len(self._trials) else None

    def is_hopeless(self, number: int, step: int, value: float) -> bool:
        """Go on in any case."""
        return False

    def finished(self, number: int, value: float | None, *, pruned: bool) -> None:
        """Learn nothing."""


class OptunaSearch:
    """Optuna's sampler, and its median rule for ending a trial; kept in a file."""

    def __init__(self, space: Space, num_trials: int, seed: int, mode: str, folder: Path) -> None:
        try:
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend
        except ImportError as error:
            raise UsageError(
                "--search optuna needs it: pip install 'relaunch[sweep]'. "
                "--search random needs nothing."
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna: Any = optuna
        self._space = space
        self._num_trials = num_trials
        self._study = optuna.create_study(
            study_name="sweep",
            storage=JournalStorage(JournalFileBackend(str(folder / "optuna.journal"))),
            direction="minimize" if mode == "min" else "maximize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
            load_if_exists=True,
        )

    def trial(self, number: int) -> Parameters | None:
        """Return the settings of a trial; one from before a restart is found again."""
        if number >= self._num_trials:
            return None
        while len(self._study.trials) <= number:
            asked = self._study.ask()
            for name, values in self._space.items():
                if isinstance(values, Choices):
                    asked.suggest_categorical(name, values.values)
                else:
                    asked.suggest_float(name, values.low, values.high, log=values.is_log)
        params = self._study.trials[number].params
        return {
            name: value if isinstance(value, str) else f"{value:.6g}"
            for name, value in params.items()
        }

    def is_hopeless(self, number: int, step: int, value: float) -> bool:
        """Tell whether it is worse than the median of the others at this step."""
        live = self._optuna.trial.Trial(self._study, self._study.trials[number]._trial_id)
        if step not in self._study.trials[number].intermediate_values:
            live.report(value, step)
        return bool(live.should_prune())

    def finished(self, number: int, value: float | None, *, pruned: bool) -> None:
        """Tell the study, once."""
        states = self._optuna.trial.TrialState
        if self._study.trials[number].state.is_finished():
            return
        if pruned:
            self._study.tell(number, state=states.PRUNED)
        elif value is None:
            self._study.tell(number, state=states.FAIL)
        else:
            self._study.tell(number, value)
