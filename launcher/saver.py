"""A run's saves at its boundaries: carried out, measured and reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from checkpointing import JSON, SaveFailedError
from strategies import Ending

from .every import Every
from .keeper import Keeper
from .progress_log import ProgressLog
from .save_clock import SaveClock
from .save_pace import SavePace

if TYPE_CHECKING:
    from .run import Run


class Saver:
    """Saves what it is given when the job says so. Every method is called on every rank."""

    def __init__(self, run: Run, keeper: Keeper, log: ProgressLog, every: Every) -> None:
        self._run = run
        self._keeper = keeper
        self._log = log
        self.pace = SavePace.of_run(every, run.clock, run.folder.events())
        """When the next save is due."""
        self.clock = SaveClock(run.environment, run.preemption, warn=run.warn)
        """Whether there is time for it."""

    def save(self, step: int, state: Mapping[str, JSON], ending: Ending | None) -> None:
        """Save now where the run ends; else begin a save that is concluded at a later boundary.

        Raises:
            SaveFailedError: the state of a finished run could not be saved. Any other failure is
                reported, and the training goes on.
        """
        self.pace.begin()
        try:
            if ending is None:
                self._keeper.start_saving(step, state)
            else:
                self._log.saved(self._keeper.save(step, state), self.pace.seconds)
                self.clock.saved(self.pace.seconds)
        except SaveFailedError as error:
            # The run is worth more than one checkpoint; a final state that is lost is a failure.
            if ending is not None and ending.is_final:
                raise
            self._log.save_failed(step, error)
        self.pace.go_on()
        self._run.heartbeat.beat()

    def conclude(self, current_best: int | None) -> None:
        """Commit the save in flight.

        Args:
            current_best: the best step by now, whose weights must stay.
        """
        step = self._keeper.saving_step
        assert step is not None
        since_s = self.pace.now()
        try:
            saved = self._keeper.conclude(current_best)
        except SaveFailedError as error:
            self._log.save_failed(step, error)
        else:
            stall_s = self.pace.concluded(since_s)
            self._log.saved(saved, self.pace.seconds, stall_s, self.pace.interval_s)
            self.clock.saved(self.pace.seconds)
        self._run.heartbeat.beat()

    def save_best(self, step: int, state: Mapping[str, JSON], name: str, value: float) -> bool:
        """Save the weights of the best evaluation so far; return whether that succeeded.

        Args:
            step: optimizer steps completed.
            state: what goes with the weights.
            name: of the metric that was best.
            value: of that metric.
        """
        began_s = self._run.clock()
        try:
            self._keeper.save_best(step, state)
        except SaveFailedError as error:
            self._log.save_failed(step, error)
            return False
        self._log.best(step, name, value, self._run.clock() - began_s)
        return True
