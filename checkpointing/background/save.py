"""A save whose bytes are written, and which is committed, while the training goes on.

The ranks meet three times, never in a thread: `start_save` (a broadcast, then a copy into shared
memory), `BackgroundSave.commit` (a gather) and `BackgroundSave.finish` (a broadcast). In between
each rank can ask whether its own part is done; when all are, is for the caller to agree on. Before
the next update of the parameters each rank calls `BackgroundSave.release_tensors`.
"""

# Note: a save in two phases, without a collective in a thread
#
# A checkpoint counts only when every rank has written its part. Somebody has to find that out, and
# the training must not stand still meanwhile. A thread with a collective of its own would do, were
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
# step: `release_tensors` waits for it. The rest of the copy goes on under the forward and backward.
# The writer follows the copy through a pipe and begins before it is complete.

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

from ..errors import SaveFailedError
from ..format.fragment import Fragment
from ..format.manifest import StoredFile, StoredTensor
from ..format.strict_json import JSON
from ..saving.collective_outcome import Outcome, notes_in, run_guarded
from ..saving.communicator import Communicator
from ..saving.save import (
    SavedCheckpoint,
    agree_on_attempt,
    announce,
    commit_of,
    conclude,
    or_abandon,
    require_same_step,
)
from ..saving.shard_report import ShardReport
from ..saving.shard_writer import plan_shard, stored_tensors, write_shard
from ..saving.snapshot import Snapshot
from ..storage.commit_protocol import SaveToken
from ..store.store import CheckpointStore
from .shard_copy import ShardCopy
from .writer import BackgroundWriter


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
        # Not the plan: it would keep the fragments' memory alive.
        self._tensors: tuple[StoredTensor, ...] = ()
        self._size_bytes = 0
        self._copy: ShardCopy | None = None
        self._slow: str | None = None
        """Why the copy took long, where it did."""
        self._wrote: Outcome | None = None
        self._is_committing = False
        self._committed: Outcome | None = None
        self._notes: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """The step whose state is saved."""
        return self._snapshot.step

    @property
    def is_committing(self) -> bool:
        """Whether all have written, and the coordinator publishes it; the same on every rank."""
        return self._is_committing

    def is_settled(self) -> bool:
        """Tell whether this rank's part is done or has failed. No collective, no waiting.

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
        """Let go of it, before the writer's memory goes: it is not committed. No collective."""
        self._end_copy()

    def commit(self) -> None:
        """Wait for this rank's shard, then let the coordinator's writer publish all of them.

        Called on every rank, once. A failure is told by `finish`.
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
        return announce(store, self.step, self._wrote, self._committed, ranks, self._notes)

    def stage(self, fragments: Iterable[Fragment]) -> None:
        """Copy the fragments and hand them to the writer; a failure is told by `finish`.

        Where there is no memory for a copy, they are written here and now.
        """
        staged = run_guarded(lambda: self._stage(fragments))
        if staged.error is not None:
            self._wrote = staged
        elif not self._tensors:
            self._wrote = Outcome(value=ShardReport().encode())

    def _stage(self, fragments: Iterable[Fragment]) -> None:
        rank = self._communicator.rank
        require_same_step(self._attempt, self.step, rank)
        metadata = {"step": str(self.step), "token": self._attempt.token}
        plan = plan_shard(fragments, metadata)
        if not plan.fragments:
            return
        path, block_bytes = self._shard_path, self._store.block_bytes
        self._tensors = stored_tensors(plan, path.name)
        self._size_bytes = plan.size_bytes
        try:
            memory = self._writer.image(plan.size_bytes)
        except OSError as error:
            report = write_shard(path, plan, files=self._store.files, block_bytes=block_bytes)
            self._wrote = Outcome(value=report.encode(), note=f"rank {rank}: {error.strerror}")
            return
        if (slow := self._writer.image_note) is not None:
            self._slow = f"rank {rank}: {slow}"
        copy = ShardCopy(memory, plan)
        # It writes from now on, as far as the copy is: not only when this rank looks again.
        tell = self._writer.submit(path, plan.size_bytes, block_bytes)
        self._copy = copy
        copy.go_on(tell)

    def _end_copy(self) -> None:
        if self._copy is not None:
            self._copy.wait()

    @property
    def _shard_path(self) -> PurePath:
        return self._store.publishing.shard_path(self._attempt, self._communicator.rank)

    def _receive(self, *, wait: bool) -> None:
        if wait:
            self._end_copy()  # also where the writer has failed: the memory is used again
        if self._wrote is not None and (self._committed is not None or not self._is_committing):
            return
        answer = self._writer.receive(wait=wait)
        if answer is None:
            return
        if self._is_committing:
            self._committed = run_guarded(lambda: self._or_abandon(lambda: self._published(answer)))
        else:
            self._wrote = replace(run_guarded(lambda: self._report(answer)), note=self._slow)

    def _or_abandon(self, action: Callable[[], JSON]) -> JSON:
        return or_abandon(self._store.publishing, self._attempt, action)

    def _begin_commit(self, messages: Sequence[JSON]) -> JSON:
        """Return the checkpoint's size if it was published here; None: it is under way."""
        commit = commit_of(self._attempt, messages, self._snapshot)
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
        crc32 = answer["value"]
        assert isinstance(crc32, list)
        file = StoredFile(
            name=self._shard_path.name,
            size_bytes=self._size_bytes,
            block_bytes=self._store.block_bytes,
            crc32=tuple(crc32),
        )
        return ShardReport(files=(file,), tensors=self._tensors).encode()


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
    save.stage(snapshot.fragments)
    return save
