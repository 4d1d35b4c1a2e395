"""Which settings are tried next, and whether to continue a trial."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ...errors import UsageError
from .space import Choices, Parameters, Space

_PRIME = 1_000_003


class Search(Protocol):
    """Numbered trials, the same ones after a restart."""

    def trial(self, number: int) -> Parameters | None:
        """Return the settings of a trial; None: there are no more."""

    def is_hopeless(self, number: int, step: int, value: float) -> bool:
        """Take an evaluation of a running trial, and tell whether to end it."""

    def is_given_up(self, number: int) -> bool:
        """Return whether a trial need not be run, because others of its setting were bad enough."""

    def finished(self, number: int, value: float | None, *, pruned: bool) -> None:
        """Take what a trial came to; again after a restart of the sweep."""


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

    def is_given_up(self, number: int) -> bool:
        """Run all."""
        return False

    def finished(self, number: int, value: float | None, *, pruned: bool) -> None:
        """Learn nothing."""


class OptunaSearch:
    """Optuna's sampler, and its median rule for giving up; kept in a file.

    With one trial a setting, the rule looks at each evaluation. With several (seeds, folds), it
    looks at the mean after each whole trial; the mean of all is what the setting has come to.
    """

    def __init__(
        self,
        space: Space,
        num_settings: int,
        seed: int,
        mode: str,
        folder: Path,
        repeats: Sequence[Parameters] = ({},),
    ) -> None:
        """Open the study.

        Args:
            space: what is searched.
            num_settings: how many settings are tried.
            seed: of the sampler.
            mode: "min" or "max".
            folder: where the study is kept.
            repeats: what else each setting's trials are given, such as the fold.

        Raises:
            UsageError: Optuna is not installed.
        """
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
        self._seed = seed
        self._num_settings = num_settings
        self._repeats = repeats
        self._values: dict[int, float | None] = {}
        self._study = optuna.create_study(
            study_name="sweep",
            storage=JournalStorage(JournalFileBackend(str(folder / "optuna.journal"))),
            direction="minimize" if mode == "min" else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
            load_if_exists=True,
        )

    def trial(self, number: int) -> Parameters | None:
        """Return the settings of a trial; one from before a restart is found again."""
        setting, repeat = self._place(number)
        if setting >= self._num_settings:
            return None
        while len(self._study.trials) <= setting:
            # Anew for each setting: a sampler begins at its seed, and after a restart of the sweep
            # it would propose again what it has proposed first.
            seed = (self._seed * _PRIME + len(self._study.trials)) % 2**32
            self._study.sampler = self._optuna.samplers.TPESampler(seed=seed)
            asked = self._study.ask()
            for name, values in self._space.items():
                if isinstance(values, Choices):
                    asked.suggest_categorical(name, values.values)
                else:
                    asked.suggest_float(name, values.low, values.high, log=values.is_log)
        params = self._study.trials[setting].params
        chosen = {
            name: value if isinstance(value, str) else f"{value:.6g}"
            for name, value in params.items()
        }
        return {**chosen, **self._repeats[repeat]}

    def is_hopeless(self, number: int, step: int, value: float) -> bool:
        """Return whether it is worse than the median of the others at this step."""
        return len(self._repeats) == 1 and self._should_prune(number, step, value)

    def is_given_up(self, number: int) -> bool:
        """Return whether its setting was given up after fewer trials."""
        setting, repeat = self._place(number)
        return repeat > 0 and self._state_of(setting) == self._optuna.trial.TrialState.PRUNED

    def finished(self, number: int, value: float | None, *, pruned: bool) -> None:
        """Report the result to the study, once for each setting."""
        states = self._optuna.trial.TrialState
        setting, repeat = self._place(number)
        self._values[number] = value
        if self._state_of(setting).is_finished():
            return
        first = number - repeat
        values = [self._values.get(one) for one in range(first, number + 1)]
        known = [one for one in values if one is not None]
        is_last = repeat + 1 == len(self._repeats)
        if pruned:
            self._study.tell(setting, state=states.PRUNED)
        elif len(known) < len(values):
            if is_last:
                self._study.tell(setting, state=states.FAIL)
        elif is_last:
            self._study.tell(setting, statistics.fmean(known))
        elif self._should_prune(setting, repeat, statistics.fmean(known)):
            self._study.tell(setting, state=states.PRUNED)

    def _place(self, number: int) -> tuple[int, int]:
        return divmod(number, len(self._repeats))

    def _state_of(self, setting: int) -> Any:
        return self._study.trials[setting].state

    def _should_prune(self, setting: int, step: int, value: float) -> bool:
        known = self._study.trials[setting]
        live = self._optuna.trial.Trial(self._study, known._trial_id)
        if step not in known.intermediate_values:
            live.report(value, step)
        return bool(live.should_prune())
