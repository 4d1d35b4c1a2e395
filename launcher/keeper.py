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
    Retention,
    SavedCheckpoint,
    SaveFailedError,
    Snapshot,
    save_checkpoint,
    start_save,
    steps_to_delete,
)
from strategies import (
    Objects,
    Restored,
    Strategy,
    collect_state,
    restore_newest,
)

from .saved_facts import best_step, score

if TYPE_CHECKING:
    from .run import Run


class Keeper:
    """Saves, restores and prunes one run's checkpoints; every method is called on every rank."""

    def __init__(
        self,
        run: Run,
        strategy: Strategy,
        *,
        retention: Retention,
        requested: list[dict[str, JSON]],
        objects: Objects,
    ) -> None:
        self._run = run
        self._folder = run.folder
        self._communicator = run.communicator
        self._strategy = strategy
        self._retention = retention
        self._resumed_from: int | None = None
        self._created_by = run.created_by()
        self._requested = requested
        self._objects = objects
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
        self._resumed_from = None if restored is None else restored.step
        for name, state in (restored.objects if restored is not None else {}).items():
            if name in self._objects:
                self._objects[name].restore(state)
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

    def start_saving_best(self, step: int, state: Mapping[str, JSON]) -> None:
        """Copy the weights alone and let them be written; `conclude_best` must follow.

        Raises:
            SaveFailedError: on every rank; nothing is in flight then, the former best is untouched.
        """
        assert self._in_flight is None, "the save in flight must be concluded first"
        snapshot = self._collect(step, state, weights_only=True)
        self._in_flight = start_save(self._folder.best, snapshot, self._communicator, self._writer)

    def conclude_best(self) -> SavedCheckpoint:
        """Wait for the best weights in flight and commit them; nothing is deleted.

        Raises:
            SaveFailedError: on every rank; the former best is untouched.
        """
        assert self._in_flight is not None
        in_flight, self._in_flight = self._in_flight, None
        return in_flight.finish()

    def close(self) -> None:
        """End this rank's writer process. No collective; a save in flight is dropped."""
        self._writer.close()

    def restore_weights(self, store: CheckpointStore, step: int, *, averaged: bool = False) -> None:
        """Load the weights of one checkpoint, or their averages; leave the optimizer's state."""
        restore_newest(
            self._strategy,
            store,
            self._communicator,
            weights_only=True,
            step=step,
            averaged=averaged,
        )

    def _collect(self, step: int, state: Mapping[str, JSON], *, weights_only: bool) -> Snapshot:
        return collect_state(
            self._strategy,
            self._communicator,
            step=step,
            state=state,
            created_by=self._created_by,
            requested=self._requested,
            objects=self._objects,
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
        steps = checkpoints.steps()
        states = {step: self._state_of(checkpoints, step) for step in steps}
        going = steps_to_delete(
            steps,
            self._retention,
            scores={
                s: found for s, state in states.items() if (found := score(state or {})) is not None
            },
            protected={s for s in steps if s == self._resumed_from or checkpoints.is_pinned(s)},
        )
        for step in going:
            checkpoints.delete(step)
        # A resume from any checkpoint that stays must find the best weights of its own past.
        staying = [states[step] for step in steps if step not in going]
        if any(state is None for state in staying):
            return  # What a damaged one refers to is unknown: nothing of the best is deleted.
        wanted = {current_best, *(best_step(state or {}) for state in staying)}
        for step in best.steps():
            if step not in wanted and not best.is_pinned(step):
                best.delete(step)

    @staticmethod
    def _state_of(store: CheckpointStore, step: int) -> Mapping[str, JSON] | None:
        try:
            with store.open(step) as reader:
                return reader.manifest.state
        except DamagedCheckpointError:
            return None
