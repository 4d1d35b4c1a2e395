"""Lets old checkpoints of a run go, and the best weights that none of those that stay refers to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath

from checkpointing import (
    JSON,
    CheckpointStore,
    DamagedCheckpointError,
    NoCheckpointError,
    Retention,
    SaveFailedError,
    steps_to_delete,
)

from ...run_folder.checkpoint_summary import best_step, score
from ...run_folder.folder import RunFolder

State = Mapping[str, JSON]


class Pruner:
    """Knows what the checkpoints hold besides tensors. Asked on the coordinator only.

    Args:
        folder: of the run.
        retention: which checkpoints stay.
        remove: begins to remove what is no checkpoint's any more, and does not wait for it.
        spared: returns the objects that the next save may name.
        report: takes the step of a checkpoint that could not be deleted, and why.
    """

    def __init__(
        self,
        folder: RunFolder,
        retention: Retention,
        *,
        remove: Callable[[PurePath], None],
        spared: Callable[[], frozenset[str]] = frozenset,
        report: Callable[[int, Exception], None],
    ) -> None:
        self._checkpoints = folder.checkpoints
        self._best = folder.best
        self._retention = retention
        self._remove = remove
        self._spared = spared
        self._report = report
        self._resumed_from: int | None = None
        # Of a thousand ranks a manifest takes seconds to read, and it does not change.
        self._states: dict[int, State | None] = {}

    def resumed(self, step: int | None) -> None:
        """Note from which checkpoint the run resumes: it is kept."""
        self._resumed_from = step
        self._states.clear()

    def saved(self, step: int, state: State) -> None:
        """Note what a committed checkpoint holds."""
        self._states[step] = state

    def prune(self, newest: int, current_best: int | None) -> None:
        """Delete what need not stay, after a checkpoint was committed.

        That an old one stays, or that a person has pruned it meanwhile, is no reason to end the
        run: it is reported.

        Args:
            newest: the step just committed.
            current_best: the best step by now, which that checkpoint may not know yet.
        """
        try:
            self._prune(current_best)
        except (SaveFailedError, NoCheckpointError, OSError) as error:
            self._report(newest, error)

    def delete(self, step: int) -> None:
        """Delete a checkpoint, or report why it stays."""
        try:
            self._delete(self._checkpoints, step)
        except (SaveFailedError, NoCheckpointError, OSError) as error:
            self._report(step, error)

    def _prune(self, current_best: int | None) -> None:
        checkpoints, best = self._checkpoints, self._best
        steps = checkpoints.steps()
        states = {step: self._state_of(step) for step in steps}
        self._states = dict(states)
        going = steps_to_delete(
            steps,
            self._retention,
            scores={
                s: found for s, state in states.items() if (found := score(state or {})) is not None
            },
            protected={s for s in steps if s == self._resumed_from},
        )
        # Only of these: in an object store each question takes as long as the network.
        going = [step for step in going if not checkpoints.is_pinned(step)]
        for step in going:
            self._delete(checkpoints, step)
        # A resume from any checkpoint that stays must find the best weights of its own past.
        staying = [states[step] for step in steps if step not in going]
        if any(state is None for state in staying):
            return  # What a damaged one refers to is unknown: nothing of the best is deleted.
        wanted = {current_best, *(best_step(state or {}) for state in staying)}
        for step in best.steps():
            if step not in wanted and not best.is_pinned(step):
                self._delete(best, step)

    def _delete(self, store: CheckpointStore, step: int) -> None:
        for path in store.withdraw(step, spared=self._spared()):
            self._remove(path)

    def _state_of(self, step: int) -> State | None:
        if step not in self._states:
            try:
                with self._checkpoints.open(step) as reader:
                    self._states[step] = reader.manifest.state
            except DamagedCheckpointError:
                self._states[step] = None
        return self._states[step]
