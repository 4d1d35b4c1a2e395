"""A save that is written and committed while the training continues.

The ranks meet three times, never in a thread: `start_save` (a broadcast, then a copy into shared
memory), `BackgroundSave.commit` (a gather) and `BackgroundSave.finish` (a broadcast). In between
each rank can ask whether its own part is done; when all are, is for the caller to agree on. Before
the next update of the parameters each rank calls `BackgroundSave.release_tensors`.
"""

# Note: a save in two phases, without a collective in a thread
#
# A checkpoint counts only when every rank has written its part. Somebody has to find that out, and
# the training must not stop for it. A thread with a collective of its own would do, were
# it not for the training's collectives: two threads that communicate over the same ranks come to
# them in different orders, and the ranks wait for each other for ever.
#
# So the ranks never wait inside a save. Each asks its writer process, without blocking, whether its
# shard is on the disk (`is_settled`), and reports the answer at the boundary like everything else.
# When the sum says that all have written, all call `commit` at the same step: reports go to the
# coordinator, whose writer proves the coverage, writes the manifest and publishes it. When that has
# settled, again by the sum, all call `finish`, which tells everyone whether it worked. Three short
# meetings, each at a boundary that was agreed on.
#
# The order in time: begin (the coordinator makes a temporary folder, all hear its name), stage
# (copy into shared memory; the only time for which the training waits), write (the writer process,
# sync included), commit, finish. A rank that dies anywhere in this leaves a temporary folder, which
# the next start removes; the name under which a checkpoint counts appears in one step or not at
# all.
#
# The copy has two halves. What the optimizer changes in its next step has to be copied before that
# step: `release_tensors` waits for it. The rest is copied during the forward and backward.
# The writer follows the copy through a pipe and begins before it is complete.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from ..errors import SaveFailedError
from ..format.gc_pause import collector_held
from ..format.manifest import StoredFile
from ..format.strict_json import JSON
from ..saving.collective_outcome import Outcome, notes_in, run_guarded
from ..saving.communicator import Communicator
from ..saving.own_shard import EarlierShard
from ..saving.save import (
    SavedCheckpoint,
    agree_on_attempt,
    announce,
    commit_of,
    conclude,
    earlier_of,
    files_of,
    or_abandon,
    require_same_step,
    stored_after,
)
from ..saving.shard_plan import ShardPlan
from ..saving.shard_report import WrittenFile
from ..saving.shard_writer import name_of, reused_file, write_shard
from ..saving.snapshot import Snapshot
from ..saving.stored_before import StoredBefore
from ..storage.commit_protocol import SaveToken
from ..store.store import CheckpointStore
from .shard_copy import ShardCopy, image_bytes, starts_in_image
from .writer import BackgroundWriter, ImagePart


@dataclass(frozen=True, kw_only=True)
class _FileToCome:
    """What the writer makes, but for its checksums."""

    name: str
    size_bytes: int
    rows: str
    earlier: EarlierShard | None

    @classmethod
    def of(cls, name: str, plan: ShardPlan, earlier: EarlierShard | None) -> "_FileToCome":
        return cls(name=name, size_bytes=plan.size_bytes, rows=plan.rows, earlier=earlier)

    def report(self, block_bytes: int, written: JSON) -> JSON:
        """Return what this rank reports of it, from the writer's answer."""
        if isinstance(written, str):
            assert self.earlier is not None
            return reused_file(self.rows, self.earlier, written).encode()
        assert isinstance(written, list)
        file = StoredFile(
            name=self.name,
            size_bytes=self.size_bytes,
            block_bytes=block_bytes,
            crc32=tuple(one for one in written if isinstance(one, int)),
        )
        return WrittenFile(record=file, rows=self.rows).encode()


class BackgroundSave:
    """A save under way: this rank's shard is being written, then all of them are published."""

    def __init__(
        self,
        store: CheckpointStore,
        attempt: SaveToken,
        snapshot: Snapshot,
        communicator: Communicator,
        writer: BackgroundWriter,
    ) -> None:
        self._store = store
        self._attempt = attempt
        self._snapshot = snapshot
        self._communicator = communicator
        self._writer = writer
        # Not the plans: they would keep the fragments' memory alive.
        self._files: list[_FileToCome] = []
        self._copy: ShardCopy | None = None
        self._slow: str | None = None
        """Why the copy took long, where it did."""
        self._written: Outcome | None = None
        """What the writer has answered."""
        self._wrote: Outcome | None = None
        """The same, once it is also sure that frozen tensors are what the checkpoint names."""
        self._is_committing = False
        self._committed: Outcome | None = None
        self._notes: tuple[str, ...] = ()
        self._stored = StoredBefore()

    @property
    def step(self) -> int:
        """The step whose state is saved."""
        return self._snapshot.step

    @property
    def is_committing(self) -> bool:
        """Whether all have written, and the coordinator publishes it; the same on every rank."""
        return self._is_committing

    def is_settled(self) -> bool:
        """Return whether this rank's part is done or has failed. No collective, no waiting.

        Its part is its shard, and after `commit`, on the coordinator, the checkpoint.
        """
        self._receive(wait=False)
        return (self._committed if self._is_committing else self._wrote) is not None

    def release_tensors(self) -> None:
        """Return once the steady fragments may change. No collective; on every rank, any time."""
        if self._copy is not None:
            self._copy.let_change()

    def device_wait_s(self) -> float:
        """Return how long the device has waited for this in place of the host, in seconds.

        No collective. Waits for the device where it is not there yet.
        """
        return 0.0 if self._copy is None else self._copy.device_wait_s()

    def drop(self) -> None:
        """Release it, before the writer's memory goes: it is not committed. No collective."""
        self._end_copy()
        if self._snapshot.frozen is not None:
            self._snapshot.frozen.wait()
            self._snapshot.frozen.failed()

    @collector_held()
    def commit(self) -> None:
        """Wait for this rank's shard, then let the coordinator's writer publish all of them.

        Called on every rank, once. `finish` reports a failure.
        """
        self._receive(wait=True)
        assert self._wrote is not None
        messages = self._communicator.gather(self._wrote.message())
        self._is_committing = True
        if messages is None:
            self._committed = Outcome()
            return
        self._notes = notes_in(messages)
        begun = run_guarded(lambda: self._or_abandon(lambda: self._begin_commit(messages)))
        if begun.error is not None or begun.value is not None:
            self._committed = begun

    def finish(self) -> SavedCheckpoint:
        """Wait until it is committed. Called on every rank, whether `commit` was or not.

        Raises:
            SaveFailedError: On every rank, with the same message, if any rank's writer died or
                its disk refused. The temporary folder is gone, older checkpoints stand.
        """
        self._receive(wait=True)
        assert self._wrote is not None
        store, snapshot, ranks = self._store, self._snapshot, self._communicator
        if not self._is_committing:
            return conclude(store, self._attempt, snapshot, self._wrote, ranks)
        assert self._committed is not None
        return announce(
            store,
            self._attempt,
            snapshot,
            self._wrote,
            self._committed,
            ranks,
            notes=self._notes,
            stored=self._stored,
        )

    def stage(self, snapshot: Snapshot) -> None:
        """Copy what is saved and hand it to the writer; `finish` reports a failure.

        Where there is no memory for a copy, they are written here and now.
        """
        staged = run_guarded(lambda: self._stage(snapshot))
        if staged.error is not None:
            self._written = staged

    def _stage(self, snapshot: Snapshot) -> None:
        rank, frozen = self._communicator.rank, snapshot.frozen
        require_same_step(self._attempt, self.step, rank)
        files = files_of(self._store, self._attempt, snapshot, rank)
        copy = self._stage_files(files) if files else None
        if not files:
            self._written = Outcome(value=[])
        if frozen is not None:
            if copy is None:
                frozen.begin_proof()
            else:
                frozen.begin_proof([copy.copied(f) for f in frozen.new], after=copy.wait)
            if self._written is not None:
                frozen.wait()  # nobody waits for a writer, which would take longer

    def _stage_files(self, files: Sequence[tuple[PurePath, ShardPlan]]) -> ShardCopy | None:
        """Copy the files' content for the writer; None: they are written here and now."""
        rank, block_bytes = self._communicator.rank, self._store.block_bytes
        plans = [plan for _, plan in files]
        try:
            memory = self._writer.image(image_bytes(plans))
        except OSError as error:
            report: list[JSON] = [
                write_shard(path, plan, files=self._store.files, block_bytes=block_bytes).encode()
                for path, plan in files
            ]
            self._written = Outcome(value=report, note=f"rank {rank}: {error.strerror}")
            return None
        if (slow := self._writer.image_note) is not None:
            self._slow = f"rank {rank}: {slow}"
        self._files = [
            _FileToCome.of(name_of(path), plan, earlier_of(path, plan, self._snapshot, block_bytes))
            for path, plan in files
        ]
        copy = ShardCopy(memory, *plans)
        # It writes from now on, as far as the copy is: not only when this rank looks again.
        parts = [
            ImagePart(path=path, start=start, size_bytes=plan.size_bytes, earlier=to_come.earlier)
            for (path, plan), start, to_come in zip(
                files, starts_in_image(plans), self._files, strict=True
            )
        ]
        tell = self._writer.submit(parts, block_bytes)
        self._copy = copy
        copy.go_on(tell)
        return copy

    def _end_copy(self) -> None:
        if self._copy is not None:
            self._copy.wait()

    def _receive(self, *, wait: bool) -> None:
        if wait:
            self._end_copy()  # also where the writer has failed: the memory is used again
        if self._wrote is None:
            self._receive_written(wait=wait)
        elif self._is_committing and self._committed is None:
            answer = self._writer.receive(wait=wait)
            if answer is not None:
                self._committed = run_guarded(
                    lambda: self._or_abandon(lambda: self._published(answer))
                )

    def _receive_written(self, *, wait: bool) -> None:
        if self._written is None:
            answer = self._writer.receive(wait=wait)
            if answer is None:
                return
            self._written = replace(run_guarded(lambda: self._report(answer)), note=self._slow)
        frozen = self._snapshot.frozen
        if frozen is None:
            self._wrote = self._written
        elif wait or frozen.is_settled():
            frozen.wait()  # also where it could not be written: the memory is used again
            self._wrote = self._written
            if self._written.error is None:
                proved = run_guarded(frozen.prove)
                self._wrote = self._written if proved.error is None else proved

    def _or_abandon(self, action: Callable[[], JSON]) -> JSON:
        return or_abandon(self._store.publishing, self._attempt, action)

    def _begin_commit(self, messages: Sequence[JSON]) -> JSON:
        """Return the checkpoint's size if it was published here; None: it is under way."""
        commit = commit_of(self._attempt, messages, self._snapshot)
        self._stored = stored_after(commit, self._snapshot)
        self._store.publishing.before_publish()
        try:
            self._writer.publish(self._store.publishing, commit)
        except OSError:  # no memory, no process: it is as good here
            return commit.publish(self._store.publishing)
        return None

    def _published(self, answer: Mapping[str, JSON]) -> JSON:
        if "error" in answer:
            raise SaveFailedError(str(answer["error"]))
        if "died" not in answer:
            return answer["value"]
        if not self._store.files.exists(self._store.publishing.work_folder(self._attempt)):
            raise SaveFailedError(
                f"{self._store.path(self.step)} is complete, but may not outlive a power loss: "
                f"{answer['died']}"
            )
        raise SaveFailedError(f"rank 0: {answer['died']}")

    def _report(self, answer: Mapping[str, JSON]) -> JSON:
        trouble = answer.get("error", answer.get("died"))
        if trouble is not None:
            raise SaveFailedError(str(trouble))
        sums = answer["value"]
        assert isinstance(sums, list)
        return [
            file.report(self._store.block_bytes, written)
            for file, written in zip(self._files, sums, strict=True)
        ]


@collector_held()
def start_save(
    store: CheckpointStore,
    snapshot: Snapshot,
    communicator: Communicator,
    writer: BackgroundWriter,
) -> BackgroundSave:
    """Begin a save; on return the tensors may change again, but for steady ones. On every rank.

    Args:
        store: See `save_checkpoint`.
        snapshot: What is saved.
        communicator: The ranks that save.
        writer: This rank's; one save at a time.

    Raises:
        SaveFailedError: On every rank, if the temporary folder cannot be made.
    """
    attempt = agree_on_attempt(store, snapshot, communicator)
    save = BackgroundSave(store, attempt, snapshot.without_fragments(), communicator, writer)
    save.stage(snapshot)
    return save
