"""Which checkpoints are made and which stay."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from checkpointing import (
    JSON,
    BackgroundSave,
    CheckpointStore,
    FrozenTensors,
    OwnShard,
    Retention,
    SavedCheckpoint,
    Snapshot,
    StoredBefore,
    save_checkpoint,
    start_save,
)
from checkpointing.background.pinned_memory import NOT_LOCKED
from checkpointing.format.names import new_token
from checkpointing.reading.weight_files import open_named
from strategies import (
    IMPORTED,
    Objects,
    Restored,
    TransformersNames,
    collect_state,
    frozen_fragments,
    restore_newest,
)
from strategies.data.streams.own_position import OwnPosition, require_same_kind
from strategies.parallel.state.trained_state import TrainedState
from strategies.state.named_weights import named_in_files

from ...run_folder.checkpoint_summary import best_step
from ..context import RunContext
from .background_thread import BackgroundThread
from .pruning import Pruner
from .writer_start import open_writer

_HEADER_BYTES = 2**20
"""For what an image holds besides tensors, each of which may begin a page."""


class Checkpointer:
    """Saves, restores and prunes one run's checkpoints; every method is called on every rank."""

    def __init__(
        self,
        run: RunContext,
        strategy: TrainedState,
        *,
        strategy_name: str,
        retention: Retention,
        requested: list[dict[str, JSON]],
        objects: Objects,
        own_position: OwnPosition | None = None,
        names_frozen: bool = False,
    ) -> None:
        """Take what is saved; `names_frozen`: frozen tensors may stay named in files of others."""
        self._run = run
        self._folder = run.folder
        self._communicator = run.communicator
        self._strategy = strategy
        self._created_by = run.created_by(strategy_name)
        self._requested = requested
        own = {} if own_position is None else {own_position.NAME: own_position}
        self._objects: Objects = {**objects, **own}
        self._own_position = own_position
        self._writer = open_writer()
        self._stored = FrozenTensors()
        self._stored_best = FrozenTensors()
        self._names_frozen = names_frozen
        self._own_shard = OwnShard()
        self._in_flight: BackgroundSave | None = None
        self._saving_since: int | None = None
        self._state_in_flight: Mapping[str, JSON] = {}
        self._told: set[str] = set()
        self._kept: list[tuple[int, Exception]] = []  # what could not be deleted, and why
        self._pruner = Pruner(
            run.folder,
            retention,
            remove=self._writer.remove,
            spared=lambda: self._stored.objects | self._stored_best.objects,
            report=lambda step, error: self._kept.append((step, error)),
        )
        self._pruning = BackgroundThread("relaunch-prune")
        """Under way between two commits, where checkpoints are far away: a new one, which no
        checkpoint refers to yet, must not come among those that it looks at."""
        self.newest_step: int | None = None
        """The step of the newest checkpoint that is whole; the same on every rank."""

    def restore(self, *, newest: int | None = None) -> Restored | None:
        """Load the newest checkpoint that is whole, up to `newest`; None where there is none."""
        self.release_tensors()
        self._end_pruning()
        if self._is_coordinator:
            self._folder.checkpoints.sweep()
            self._folder.best.sweep()
        restored = restore_newest(
            self._strategy,
            self._folder.checkpoints,
            self._communicator,
            requested=self._requested,
            newest=newest,
        )
        self.newest_step = None if restored is None else restored.step
        if self._is_coordinator and restored is not None:
            for step in restored.damaged:
                self._folder.checkpoints.set_aside(step)
        self._pruner.resumed(self.newest_step)
        self._stored.forget()
        self._own_shard.forget()
        self._stored_best.failed()  # what it relies on may have been swept
        if restored is not None:
            frozen = frozen_fragments(self._strategy)
            self._stored.loaded(restored.token, self._still_named(restored.stored), frozen)
            folder = self._folder.checkpoints.path(restored.step)
            self._own_shard.committed(folder, self._communicator.rank, restored.files)
        saved = restored.objects if restored is not None else {}
        for name, state in saved.items():
            if name in self._objects:
                self._objects[name].restore(state)
        if restored is not None and IMPORTED not in restored.state:
            require_same_kind(self._own_position, OwnPosition.NAME in saved)
        return restored

    def look_for_weights(self, files: Sequence[Path]) -> None:
        """Look into files of `weights=` first for tensors that checkpoints name. No collective."""
        for store in (self._folder.checkpoints, self._folder.best):
            store.weight_files = files

    def name_frozen(self, weights: Path, names: TransformersNames | None) -> StoredBefore:
        """Let the next saves name the frozen tensors that are in files, in place of copies.

        Those that the store has already in a file of others are not read again.

        Returns:
            On every rank, all that is named by now.
        """
        known = self._stored.stored
        named = {tensor.spec.name for tensor in known.tensors} & (
            known.names - known.in_objects().names
        )
        found = named_in_files(self._strategy, weights, self._communicator, but=named, names=names)
        stored = known.with_also(found)
        if found.tensors:
            token = self._communicator.broadcast(new_token())
            assert isinstance(token, str)
            self._stored.loaded(token, stored, frozen_fragments(self._strategy))
        return stored.only(stored.names - stored.in_objects().names)

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, to which the run will not come in that way."""
        if not self._is_coordinator:
            return
        self._end_pruning()
        for one in self._folder.checkpoints.steps():
            if one > step:
                self._pruner.delete(one)
        self._tell_what_was_kept()

    @property
    def saving_step(self) -> int | None:
        """The step whose save is in flight; the same on every rank."""
        return None if self._in_flight is None else self._in_flight.step

    @property
    def saving_since(self) -> int | None:
        """The step at which the present part of the save in flight began, on every rank."""
        return None if self._in_flight is None else self._saving_since

    @property
    def is_committing(self) -> bool:
        """Whether the save in flight is written and being committed; the same on every rank."""
        return self._in_flight is not None and self._in_flight.is_committing

    def commit(self, step: int) -> None:
        """Let the save in flight be committed, once all ranks have written; `conclude` follows.

        Args:
            step: the step after which the training waits for that.
        """
        assert self._in_flight is not None
        self._end_pruning()
        self._in_flight.commit()
        self._saving_since = step

    def is_settled(self) -> bool:
        """Return whether this rank's part of the save in flight is done. No collective."""
        return self._in_flight is not None and self._in_flight.is_settled()

    def state_bytes(self) -> int:
        """Return how many bytes this rank writes in a full save by now. No collective."""
        fragments = self._strategy.fragments(weights_only=False)
        return sum(f.size_bytes for f in fragments if f.spec.name not in self._stored.names)

    def prepare(self) -> None:
        """Take the memory of the first save while the training continues. No collective.

        Called after the first step, when the optimizer's state is there. Where the estimate is too
        small, as for large objects of the script's, the first save takes the rest.
        """
        fragments = self._strategy.fragments(weights_only=False)
        room_bytes = mmap.PAGESIZE * len(fragments) + _HEADER_BYTES
        self._writer.prepare(sum(f.size_bytes for f in fragments) + room_bytes)

    def release_tensors(self) -> None:
        """Return once the optimizer's state may change. No collective."""
        if self._in_flight is not None:
            self._in_flight.release_tensors()

    def device_wait_s(self) -> float:
        """Return how long the device has waited for the save in flight, unseen by the host."""
        return 0.0 if self._in_flight is None else self._in_flight.device_wait_s()

    def start_saving(self, step: int, state: Mapping[str, JSON]) -> None:
        """Copy the state and let it be written; `conclude` must follow before the next save.

        Raises:
            SaveFailedError: on every rank; nothing is in flight then.
        """
        assert self._in_flight is None, "the save in flight must be concluded first"
        self._start(self._folder.checkpoints, self._collect(step, state, weights_only=False))
        self._state_in_flight = state

    def conclude(self, current_best: int | None) -> SavedCheckpoint:
        """Wait for the save in flight, commit it, then let old checkpoints go.

        Args:
            current_best: the best step by now, which the state in flight may not know yet.

        Raises:
            SaveFailedError: on every rank; earlier checkpoints are untouched.
        """
        saved = self._finish()
        self.newest_step = saved.step
        self._let_go(saved.step, self._state_in_flight, current_best)
        return saved

    def save(self, step: int, state: Mapping[str, JSON]) -> SavedCheckpoint:
        """Write a full checkpoint, then let old ones go.

        Raises:
            SaveFailedError: on every rank; earlier checkpoints are untouched.
        """
        snapshot = self._collect(step, state, weights_only=False)
        self._end_pruning()
        saved = save_checkpoint(self._folder.checkpoints, snapshot, self._communicator)
        self.newest_step = saved.step
        self._let_go(step, state, best_step(state))
        return saved

    def start_saving_best(self, step: int, state: Mapping[str, JSON]) -> None:
        """Copy the weights alone and let them be written; `conclude_best` must follow.

        Raises:
            SaveFailedError: on every rank; nothing is in flight then, the former best is untouched.
        """
        assert self._in_flight is None, "the save in flight must be concluded first"
        self._start(self._folder.best, self._collect(step, state, weights_only=True))

    def conclude_best(self) -> SavedCheckpoint:
        """Wait for the best weights in flight and commit them; nothing is deleted.

        Raises:
            SaveFailedError: on every rank; the former best is untouched.
        """
        return self._finish()

    def look_for_newest(self) -> None:
        """See whether there is still a checkpoint to resume from. Called on every rank."""
        found: JSON = self.newest_step
        if self._is_coordinator and found is not None:
            with suppress(OSError):  # of another kind: what cannot be seen now was there
                try:
                    found = next(iter(self._folder.checkpoints.steps()), None)
                except (FileNotFoundError, NotADirectoryError):
                    found = None
        found = self._communicator.broadcast(found)
        self.newest_step = found if isinstance(found, int) else None

    def close(self) -> None:
        """End this rank's writer process. No collective; a save in flight is dropped."""
        if self._in_flight is not None:
            self._in_flight.drop()
        self._end_pruning()
        self._writer.close()

    def restore_weights(self, store: CheckpointStore, step: int, *, averaged: bool = False) -> None:
        """Load the weights of one checkpoint, or their averages; leave the optimizer's state."""
        self.release_tensors()
        restore_newest(
            self._strategy,
            store,
            self._communicator,
            weights_only=True,
            step=step,
            averaged=averaged,
        )

    def _still_named(self, stored: StoredBefore) -> StoredBefore:
        """Return what the next save may name of a checkpoint, with files where they are now."""
        if not self._names_frozen:
            return stored.in_objects()
        files = self._folder.checkpoints.weight_files
        return stored.with_paths(lambda one: str(open_named(one, files).path))

    def _start(self, store: CheckpointStore, snapshot: Snapshot) -> None:
        self._in_flight = start_save(store, snapshot, self._communicator, self._writer)
        self._saving_since = snapshot.step

    def _finish(self) -> SavedCheckpoint:
        assert self._in_flight is not None
        in_flight, self._in_flight = self._in_flight, None
        self._end_pruning()
        saved = in_flight.finish()
        self._tell_what_is_slow(saved.notes)
        return saved

    def _collect(self, step: int, state: Mapping[str, JSON], *, weights_only: bool) -> Snapshot:
        if self._own_position is not None and not weights_only:
            self._own_position.gather(step, self._communicator.all_gather)
        stored, store = self._stored, self._folder.checkpoints
        other, beside = self._stored_best, self._folder.best
        if weights_only:
            stored, store, other, beside = other, beside, stored, store
        if other.names and not other.is_doubtful and not stored.names:
            # One base for both. On rank 0 alone it may fail: then all ranks write it.
            is_shared = not self._is_coordinator or store.share_objects(beside, other.objects)
            if is_shared:
                stored.adopt(other)
        if stored.is_doubtful and self._is_coordinator and not store.has_objects(stored.objects):
            stored.forget()
        return collect_state(
            self._strategy,
            self._communicator,
            step=step,
            state=state,
            created_by=self._created_by,
            requested=self._requested,
            objects=self._objects,
            weights_only=weights_only,
            stored=stored,
            own_shard=None if weights_only else self._own_shard,
        )

    def _let_go(self, step: int, state: Mapping[str, JSON], current_best: int | None) -> None:
        if not self._is_coordinator:
            return
        self._pruner.saved(step, state)
        if self._folder.checkpoints.files.renames_folders:
            self._pruner.prune(step, current_best)
            self._tell_what_was_kept()
        else:  # many questions, each of which takes as long as the network
            self._pruning.start(lambda: self._pruner.prune(step, current_best))
        for reason in self._writer.not_removed():
            self._run.warn(f"{reason}. The next start tries again.")

    def _end_pruning(self) -> None:
        """Wait for what the coordinator does since the last save, and report it."""
        self._pruning.wait()
        self._tell_what_was_kept()

    def _tell_what_is_slow(self, notes: Sequence[str]) -> None:
        """Report, each once, why saves hold up the training longer than they should."""
        self._tell_once("memory not locked", [n for n in notes if NOT_LOCKED in n])
        waits = "The training waits while that part of a save is written."
        self._tell_once("saved in the foreground", [n for n in notes if NOT_LOCKED not in n], waits)

    def _tell_once(self, event: str, notes: Sequence[str], more: str = "") -> None:
        if not notes or event in self._told:
            return
        self._told.add(event)
        others = f", and it is so on {len(notes) - 1} other ranks" if notes[1:] else ""
        reason = f"{notes[0]}{others}"
        self._run.folder.event(event, reason=reason)
        self._run.warn(f"{reason}. {more}".rstrip())

    def _tell_what_was_kept(self) -> None:
        while self._kept:
            step, error = self._kept.pop(0)
            self._run.folder.event("not deleted", step=step, reason=str(error))
            self._run.warn(str(error))

    @property
    def _is_coordinator(self) -> bool:
        return self._communicator.rank == 0
