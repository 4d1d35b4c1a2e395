"""Which checkpoints are made and which stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from checkpointing import (
    JSON,
    BackgroundSave,
    BackgroundWriter,
    CheckpointStore,
    DamagedCheckpointError,
    NoCheckpointError,
    SavedCheckpoint,
    SaveFailedError,
    Snapshot,
    save_checkpoint,
    start_save,
    steps_to_delete,
)
from strategies import (
    Restored,
    Strategy,
    collect_state,
    restore_newest,
)

from .saved_facts import best_step

if TYPE_CHECKING:
    from .run import Run


class Keeper:
    """Saves, restores and prunes one run's checkpoints; every method is called on every rank."""

    def __init__(
        self, run: Run, strategy: Strategy, *, keep: int, requested: list[dict[str, JSON]]
    ) -> None:
        self._run = run
        self._folder = run.folder
        self._communicator = run.communicator
        self._strategy = strategy
        self._keep = keep
        self._created_by = run.created_by()
        self._requested = requested
        self._writer = BackgroundWriter()
        self._in_flight: BackgroundSave | None = None
        self.newest_step: int | None = None
        """The step of the newest checkpoint that is whole; the same on every rank."""

    def restore(self, *, newest: int | None = None) -> Restored | None:
        """Load the newest checkpoint that is whole, up to `newest`; None where there is none."""
        if self._is_coordinator:
            self._folder.checkpoints.sweep()
            self._folder.best.sweep()
        restored = restore_newest(
            self._strategy, self._folder.checkpoints, self._communicator, newest=newest
        )
        self.newest_step = None if restored is None else restored.step
        if self._is_coordinator and restored is not None:
            for step in restored.damaged:
                self._folder.checkpoints.set_aside(step)
        return restored

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, to which the run will not come in that way."""
        if not self._is_coordinator:
            return
        for one in self._folder.checkpoints.steps():
            if one > step:
                self._delete(one)

    def _delete(self, step: int) -> None:
        try:
            self._folder.checkpoints.delete(step)
        except (SaveFailedError, NoCheckpointError) as error:
            self._not_deleted(step, error)

    @property
    def saving_step(self) -> int | None:
        """The step whose save is in flight; the same on every rank."""
        return None if self._in_flight is None else self._in_flight.step

    def is_settled(self) -> bool:
        """Tell whether this rank's part of the save in flight is done. No collective."""
        return self._in_flight is not None and self._in_flight.is_settled()

    def start_saving(self, step: int, state: Mapping[str, JSON]) -> None:
        """Copy the state and let it be written; `conclude` must follow before the next save.

        Raises:
            SaveFailedError: on every rank; nothing is in flight then.
        """
        assert self._in_flight is None, "the save in flight must be concluded first"
        snapshot = self._collect(step, state, weights_only=False)
        self._in_flight = start_save(
            self._folder.checkpoints, snapshot, self._communicator, self._writer
        )

    def conclude(self, current_best: int | None) -> SavedCheckpoint:
        """Wait for the save in flight, commit it, then let old checkpoints go.

        Args:
            current_best: the best step by now, which the state in flight may not know yet.

        Raises:
            SaveFailedError: on every rank; earlier checkpoints are untouched.
        """
        assert self._in_flight is not None
        in_flight, self._in_flight = self._in_flight, None
        saved = in_flight.finish()
        self.newest_step = saved.step
        self._let_go(saved.step, current_best)
        return saved

    def save(self, step: int, state: Mapping[str, JSON]) -> SavedCheckpoint:
        """Write a full checkpoint, then let old ones go.

        Raises:
            SaveFailedError: on every rank; earlier checkpoints are untouched.
        """
        snapshot = self._collect(step, state, weights_only=False)
        saved = save_checkpoint(self._folder.checkpoints, snapshot, self._communicator)
        self.newest_step = saved.step
        self._let_go(step, best_step(state))
        return saved

    def save_best(self, step: int, state: Mapping[str, JSON]) -> SavedCheckpoint:
        """Write the weights alone, as the best so far.

        Raises:
            SaveFailedError: on every rank; the former best is untouched.
        """
        snapshot = self._collect(step, state, weights_only=True)
        return save_checkpoint(self._folder.best, snapshot, self._communicator)

    def close(self) -> None:
        """End this rank's writer process. No collective; a save in flight is dropped."""
        self._writer.close()

    def restore_weights(self, store: CheckpointStore, step: int) -> None:
        """Load the weights of one checkpoint and leave the optimizer's state as it is."""
        restore_newest(self._strategy, store, self._communicator, weights_only=True, step=step)

    def _collect(self, step: int, state: Mapping[str, JSON], *, weights_only: bool) -> Snapshot:
        return collect_state(
            self._strategy,
            self._communicator,
            step=step,
            state=state,
            created_by=self._created_by,
            requested=self._requested,
            weights_only=weights_only,
        )

    def _let_go(self, step: int, current_best: int | None) -> None:
        if not self._is_coordinator:
            return
        try:
            self._prune(current_best)
        except (SaveFailedError, NoCheckpointError) as error:
            # The new checkpoint is safe; that an old one stays, or that a person has pruned it
            # meanwhile, is no reason to end the run.
            self._not_deleted(step, error)

    def _not_deleted(self, step: int, error: Exception) -> None:
        self._run.folder.event("not deleted", step=step, reason=str(error))
        self._run.warn(str(error))

    @property
    def _is_coordinator(self) -> bool:
        return self._communicator.rank == 0

    def _prune(self, current_best: int | None) -> None:
        checkpoints, best = self._folder.checkpoints, self._folder.best
        for step in steps_to_delete(checkpoints.steps(), keep=self._keep, protected=()):
            checkpoints.delete(step)
        # A resume from any checkpoint that stays must find the best weights of its own past.
        wanted = {current_best} if current_best is not None else set()
        for step in checkpoints.steps():
            try:
                with checkpoints.open(step) as reader:
                    referenced = best_step(reader.manifest.state)
            except DamagedCheckpointError:
                return  # What it refers to is unknown: nothing of the best is deleted.
            wanted |= {referenced} if referenced is not None else set()
        for step in best.steps():
            if step not in wanted:
                best.delete(step)
