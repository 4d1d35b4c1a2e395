"""A save whose bytes are written while the training goes on.

The ranks meet twice, never in a thread: `start_save` (one broadcast, then a copy into shared
memory) and `BackgroundSave.finish` (a gather and a broadcast). In between each rank can ask
whether its own shard is done; when all are, is for the caller to agree on.
"""

from collections.abc import Iterable, Mapping
from pathlib import PurePath

import torch

from .background_writer import BackgroundWriter
from .communicator import Communicator
from .errors import SaveFailedError
from .fragment import Fragment
from .manifest import StoredFile, StoredTensor
from .outcome import Outcome, run_guarded
from .publishing import Attempt
from .report import ShardReport
from .save import SavedCheckpoint, agree_on_attempt, conclude, require_same_step
from .shard_writer import ShardPlan, plan_shard, stored_tensors
from .snapshot import Snapshot
from .store import CheckpointStore
from .strict_json import JSON
from .tensor_bytes import byte_view


class BackgroundSave:
    """A save under way. Its rank's shard is being written, or is done, or has failed."""

    def __init__(
        self,
        store: CheckpointStore,
        attempt: Attempt,
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
        self._wrote: Outcome | None = None

    @property
    def step(self) -> int:
        """The step whose state is saved."""
        return self._snapshot.step

    def is_settled(self) -> bool:
        """Tell whether this rank's shard is written or has failed. No collective, no waiting."""
        self._receive(wait=False)
        return self._wrote is not None

    def finish(self) -> SavedCheckpoint:
        """Wait for this rank's shard and commit. Called on every rank.

        Raises:
            SaveFailedError: On every rank, with the same message, if any rank's writer died or
                its disk refused. The temporary folder is gone, older checkpoints stand.
        """
        self._receive(wait=True)
        assert self._wrote is not None
        return conclude(self._store, self._attempt, self._snapshot, self._wrote, self._communicator)

    def stage(self, fragments: Iterable[Fragment]) -> None:
        """Copy the fragments and hand them to the writer; a failure is told by `finish`."""
        staged = run_guarded(lambda: self._stage(fragments))
        if staged.error is not None:
            self._wrote = staged
        elif not self._tensors:
            self._wrote = Outcome(value=ShardReport().encode())

    def _stage(self, fragments: Iterable[Fragment]) -> JSON:
        rank = self._communicator.rank
        require_same_step(self._attempt, self.step, rank)
        metadata = {"step": str(self.step), "token": self._attempt.token}
        plan = plan_shard(fragments, metadata)
        if plan.fragments:
            fill_image(self._writer, plan)
            path = self._shard_path
            self._writer.submit(path, plan.size_bytes, self._store.block_bytes)
            self._tensors = stored_tensors(plan, path.name)
            self._size_bytes = plan.size_bytes
        return None

    @property
    def _shard_path(self) -> PurePath:
        return self._store.publishing.shard_path(self._attempt, self._communicator.rank)

    def _receive(self, *, wait: bool) -> None:
        if self._wrote is not None:
            return
        answer = self._writer.receive(wait=wait)
        if answer is not None:
            self._wrote = run_guarded(lambda: self._report(answer))

    def _report(self, answer: Mapping[str, JSON]) -> JSON:
        if "error" in answer:
            raise SaveFailedError(str(answer["error"]))
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
    """Begin a save; on return the tensors may change again. Called on every rank.

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


def fill_image(writer: BackgroundWriter, plan: ShardPlan) -> None:
    """Copy a shard as it will stand in its file into the memory shared with the writer.

    Raises:
        OSError: There is not so much memory.
    """
    memory = memoryview(writer.image(plan.size_bytes))
    image = torch.frombuffer(memory, dtype=torch.uint8)
    memory[: len(plan.header)] = plan.header
    for fragment, offset in zip(plan.fragments, plan.offsets, strict=True):
        source = fragment.data.detach().view(torch.uint8)
        if source.device.type == "cpu" and torch.get_num_threads() == 1:
            # Where the two are not aligned alike, memmove takes five sixths of the time of copy_.
            memory[offset : offset + len(source)] = byte_view(source)
        else:
            image[offset : offset + len(source)].copy_(source)
