"""A run's saves at its boundaries: carried out, measured and reported."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from checkpointing import JSON, SavedCheckpoint, SaveFailedError
from strategies import EarlyStoppingState, Ending

from ...contract.exit_codes import CONTINUE
from ...contract.files.leaving import tell_leaving
from ...run_folder.progress_line import duration_text
from ..context import RunContext
from ..recipe.interval import Every
from ..reporting.save_log import SaveLog
from ..run_state import Preempted, RunState
from .background_thread import BackgroundThread
from .checkpointer import Checkpointer
from .save_deadline import SaveDeadline
from .save_estimate import estimated_save_s, measured_bytes_per_s
from .save_interval import SaveInterval

TRY_AGAIN_S = (1.0, 4.0, 15.0, 40.0, 60.0, 60.0, 60.0)
"""Waits before the last save of a finished run is tried again: four minutes for a disk to recover,
or for somebody to make room."""
_ASK_EVERY_S = 2.0
"""Meanwhile the ranks tell each other of a notice as often."""


@dataclass(frozen=True, kw_only=True)
class _Best:
    """The weights of a best evaluation, on their way to the disk."""

    step: int
    name: str
    """Of the metric that was best."""
    value: float
    former: EarlyStoppingState
    """The rule's state before."""
    began_s: float
    stall_s: float = 0.0
    """How long the training stood still while they were copied."""


class SaveAtBoundary:
    """Saves what it is given when the job says so. Every method is called on every rank."""

    def __init__(
        self, run: RunContext, checkpointer: Checkpointer, log: SaveLog, every: Every
    ) -> None:
        self._run = run
        self._checkpointer = checkpointer
        self._log = log
        self.pace = SaveInterval.of_run(every, run.clock, run.past_events)
        """When the next save is due."""
        self.clock = SaveDeadline(run.environment, run.preemption, run.end_time, warn=run.warn)
        """Whether there is time for it."""
        self._best: _Best | None = None
        self._has_prepared = self._has_estimated = False
        self._probing = BackgroundThread("relaunch-probe")

    def save(self, step: int, state: Mapping[str, JSON], ending: Ending | None) -> None:
        """Save now where the run ends; else begin a save that is concluded at a later boundary.

        Raises:
            SaveFailedError: the state of a finished run could not be saved. Any other failure is
                reported, and the training continues.
        """
        self.pace.begin()
        if ending is not None and ending.is_final:
            self._saved(self._save_last(step, state))
        else:
            try:
                if ending is None:
                    self._checkpointer.start_saving(step, state)
                else:
                    self._saved(self._checkpointer.save(step, state))
            except SaveFailedError as error:  # the run is worth more than one checkpoint
                self._log.save_failed(step, error)
        self.pace.training_continues()
        self._run.heartbeat.beat()

    def _saved(self, saved: SavedCheckpoint) -> None:
        self._log.saved(saved, self.pace.seconds)
        self.clock.saved(self.pace.seconds)

    def _save_last(self, step: int, state: Mapping[str, JSON]) -> SavedCheckpoint:
        """Save the state of a finished run, which nothing else holds; try several times.

        Raises:
            SaveFailedError: on every rank; the disk does not recover.
            Preempted: the ranks are asked to leave meanwhile, and there is an earlier checkpoint.
        """
        is_asked = False
        for number, wait_s in enumerate(TRY_AGAIN_S):
            try:
                return self._checkpointer.save(step, state)
            except SaveFailedError as error:
                self._log.save_failed(step, error)
            if number == 0:
                self._run.warn(
                    "this was the last save of a finished run. It is tried again for "
                    f"{duration_text(sum(TRY_AGAIN_S))}: make room, or mend the disk, now."
                )
            if is_asked := self._is_asked_within(wait_s):
                break
        try:
            return self._checkpointer.save(step, state)
        except SaveFailedError as error:
            newest = self._checkpointer.newest_step
            if is_asked and newest is not None:
                self._leave_unsaved(step, newest, error)
            since = "" if newest is None else f" after step {newest}"
            raise SaveFailedError(
                f"{error} The run has finished, but its end is not saved: the same command "
                f"repeats the steps{since}."
            ) from error

    def _leave_unsaved(self, step: int, newest: int, error: SaveFailedError) -> NoReturn:
        self._log.save_failed(step, error)
        self._run.say(
            "preemption notice: the run has finished, but its end is not saved. The same "
            f"command resumes from step {newest}."
        )
        tell_leaving(self._run.environment.leaving_file, CONTINUE)
        raise Preempted from error

    def _is_asked_within(self, seconds: float) -> bool:
        """Wait on every rank; return whether any of them is asked to leave. Collective."""
        for _ in range(math.ceil(seconds / _ASK_EVERY_S)):  # as often on every rank
            time.sleep(min(_ASK_EVERY_S, seconds))
            self._run.heartbeat.beat()
            if any(self._run.communicator.all_gather(self._run.preemption.requested)):
                return True
        return False

    def passed(self, evaluation_s: float = 0.0, num_turns: int = 1) -> None:
        """Note the time of a step at its boundary; estimate that of a save, if that matters.

        After the first step the first save's memory is taken.

        Args:
            evaluation_s: of that time, in evaluations.
            num_turns: micro-batches of this rank, with padding.
        """
        if not self._has_prepared:
            self._has_prepared = True
            self._checkpointer.prepare()
        if not self._run.ranks.is_coordinator:
            return
        self.clock.passed(evaluation_s, num_turns)
        if self._has_estimated or not self.clock.wants_estimate:
            return
        self._has_estimated = True
        store = self._run.folder.checkpoints
        if store.files.renames_folders:  # on a disk, whose speed a written file shows
            place = Path(store.folder)
            size_bytes = self._checkpointer.state_bytes() * self._run.environment.local_world_size
            self._probing.start(lambda: self._estimate(place, size_bytes))

    def _estimate(self, place: Path, size_bytes: int) -> None:
        with suppress(OSError):  # a save that cannot be made is reported when it is tried
            place.mkdir(parents=True, exist_ok=True)
            self.clock.expect(estimated_save_s(size_bytes, measured_bytes_per_s(place)))

    def release_tensors(self) -> None:
        """Return once the optimizer's state may change. Called before every update."""
        if self._checkpointer.saving_step is None or self._best is not None:
            return
        since_s = self._run.clock()
        self._checkpointer.release_tensors()
        self.pace.add_stall(self._run.clock() - since_s)

    def conclude(self, state: RunState) -> RunState:
        """Commit the save in flight; return the state with the best that is on disk now."""
        if self._best is not None:
            return self._conclude_best(self._best, state)
        step = self._checkpointer.saving_step
        assert step is not None
        self.pace.add_stall(self._checkpointer.device_wait_s())
        since_s = self.pace.now()
        try:
            saved = self._checkpointer.conclude(state.stopper.best_step)
        except SaveFailedError as error:
            self._log.save_failed(step, error)
        else:
            stall_s = self.pace.concluded(since_s)
            self._log.saved(saved, self.pace.seconds, stall_s, self.pace.interval_s)
            self.clock.saved(self.pace.seconds)
        self._run.heartbeat.beat()
        return state

    def proceed(self, state: RunState) -> RunState:
        """Continue with the save in flight, all of whose ranks are done with its present part.

        They have written: let it be committed while the training continues. It is committed: note
        that, and let old checkpoints go.

        Returns:
            The state with the best that is on disk now.
        """
        if self._checkpointer.is_committing:
            return self.conclude(state)
        since_s = self._run.clock()
        self._checkpointer.commit(state.step)
        if self._best is None:
            self.pace.add_stall(self._run.clock() - since_s)
        else:
            stall_s = self._best.stall_s + self._run.clock() - since_s
            self._best = replace(self._best, stall_s=stall_s)
        return state

    def conclude_best(self, state: RunState) -> RunState:
        """Commit the best weights if they are in flight, before another evaluation is judged."""
        return state if self._best is None else self._conclude_best(self._best, state)

    def start_best(
        self,
        state: RunState,
        content: Mapping[str, JSON],
        *,
        former: EarlyStoppingState,
        name: str,
        value: float,
    ) -> RunState:
        """Begin to save the weights of the best evaluation so far.

        They count as the best from now on, and nothing that says so is saved before they are
        committed: every save concludes the one in flight first.

        Args:
            state: with this evaluation as the best.
            content: what goes with the weights.
            former: the rule's state before this evaluation.
            name: of the metric that was best.
            value: of that metric.

        Returns:
            The state, with the former best where the save could not begin.
        """
        if self._checkpointer.saving_step is not None:
            self.conclude(replace(state, stopper=former))
        began_s = self._run.clock()
        best = _Best(step=state.step, name=name, value=value, former=former, began_s=began_s)
        try:
            self._checkpointer.start_saving_best(state.step, content)
        except SaveFailedError as error:
            return self._keep_former(best, state, error)
        self._best = replace(best, stall_s=self._run.clock() - began_s)
        return state

    def _conclude_best(self, best: _Best, state: RunState) -> RunState:
        self._best = None
        since_s = self._run.clock()
        try:
            self._checkpointer.conclude_best()
        except SaveFailedError as error:
            return self._keep_former(best, state, error)
        now_s = self._run.clock()
        self._log.best(
            best.step,
            best.name,
            best.value,
            seconds=now_s - best.began_s,
            stall_s=best.stall_s + now_s - since_s,
        )
        self._run.heartbeat.beat()
        return state

    def _keep_former(self, best: _Best, state: RunState, error: SaveFailedError) -> RunState:
        """The best is what can be exported: where it could not be saved, it is the former one."""
        self._log.save_failed(best.step, error)
        stopper = replace(state.stopper, best=best.former.best, best_step=best.former.best_step)
        return replace(state, stopper=stopper)
