"""Save one checkpoint from all ranks: three collectives, whatever happens on any of them.

1. broadcast  the coordinator began an attempt (made a temporary folder), or could not
2. gather     every rank wrote and synced its shard, or could not
3. broadcast  the coordinator proved coverage and published, or could not
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ..errors import SaveFailedError
from ..format.fragment import Fragment
from ..format.names import is_object, step_folder
from ..format.strict_json import JSON, require_json
from ..storage.commit_protocol import CommitProtocol, SaveToken
from ..storage.local_files import full_disk_told
from ..store.store import CheckpointStore
from .collective_outcome import Outcome, error_in, notes_in, run_guarded, value_in
from .commit import Commit
from .communicator import Communicator
from .own_shard import EarlierShard
from .shard_plan import Layouts, ShardPlan
from .shard_report import reported_files
from .shard_writer import name_of, write_shard
from .snapshot import Snapshot
from .stored_before import NOTHING_STORED, StoredBefore

_MAX_RANKS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class SavedCheckpoint:
    """A committed checkpoint."""

    step: int
    path: PurePath
    size_bytes: int
    """What was written: the shards and objects of all ranks and the manifest."""

    notes: tuple[str, ...] = ()
    """On the coordinator: why ranks wrote their parts while the training stood still."""


def save_checkpoint(
    store: CheckpointStore, snapshot: Snapshot, communicator: Communicator
) -> SavedCheckpoint:
    """Write every rank's fragments and commit them as the checkpoint of a step.

    Called on every rank. On return the checkpoint is complete and durable on all of them. If a
    rank dies meanwhile, the communicator of the others raises; nothing was committed then, or
    all of it, and `CheckpointStore.sweep` removes the temporary folder.

    Args:
        store: The same folder on every rank, on a filesystem that they share.
        snapshot: What is saved.
        communicator: The ranks that save.

    Raises:
        SaveFailedError: On every rank, with the same message, if any rank's disk refuses or an
            element is missing or doubled. The temporary folder is gone, older checkpoints stand.
        Exception: Any other exception of this rank (a defect, an interrupt, `state` that is not
            JSON), after the others have learned of it; they raise SaveFailedError.
    """
    attempt = agree_on_attempt(store, snapshot, communicator)
    wrote = run_guarded(lambda: _write(store, attempt, snapshot, communicator.rank))
    return conclude(store, attempt, snapshot, wrote, communicator)


def agree_on_attempt(
    store: CheckpointStore, snapshot: Snapshot, communicator: Communicator
) -> SaveToken:
    """Make the temporary folder; the first of the three collectives. Called on every rank.

    Raises:
        SaveFailedError: On every rank, if the coordinator's disk refuses.
    """
    began = Outcome()
    if communicator.rank == 0:
        began = run_guarded(lambda: _begin(store, snapshot))
    reply = communicator.broadcast(began.message())
    _raise_failure(snapshot.step, reply, began)
    return SaveToken.parse(value_in(reply))


def conclude(
    store: CheckpointStore,
    attempt: SaveToken,
    snapshot: Snapshot,
    wrote: Outcome,
    communicator: Communicator,
) -> SavedCheckpoint:
    """Commit what the ranks wrote: the other two collectives. Called on every rank.

    Args:
        store: See `save_checkpoint`.
        attempt: From `agree_on_attempt`.
        snapshot: The coordinator's counts; its fragments are not looked at.
        wrote: This rank's report, or why it could not write.
        communicator: The ranks that save.

    Raises:
        SaveFailedError: On every rank; see `save_checkpoint`.
    """
    messages = communicator.gather(wrote.message())
    committed, notes, stored = Outcome(), notes_in(messages or ()), NOTHING_STORED
    if messages is not None:
        publishing = store.publishing

        def publish() -> JSON:
            nonlocal stored
            commit = commit_of(attempt, messages, snapshot)
            stored = stored_after(commit, snapshot)
            return _publish(commit, publishing)

        committed = run_guarded(lambda: or_abandon(publishing, attempt, publish))
    return announce(
        store, attempt, snapshot, wrote, committed, communicator, notes=notes, stored=stored
    )


def stored_after(commit: Commit, snapshot: Snapshot) -> StoredBefore:
    """Return what the store has in objects once this is committed. Called on the coordinator.

    Raises:
        ValueError: If a rank wrote what is no tensor of the checkpoint.
    """
    if snapshot.frozen is None:
        return NOTHING_STORED
    if not any(file.is_object for report in commit.reports for file in reported_files(report)):
        return commit.kept  # as at every save but the first: no need to look at all the tensors
    return StoredBefore.of_manifest(commit.manifest())


def announce(
    store: CheckpointStore,
    attempt: SaveToken,
    snapshot: Snapshot,
    wrote: Outcome,
    committed: Outcome,
    communicator: Communicator,
    *,
    notes: Sequence[str] = (),
    stored: StoredBefore = NOTHING_STORED,
) -> SavedCheckpoint:
    """Send all ranks the result of a save: the last collective. Called on every rank.

    Args:
        store: See `save_checkpoint`.
        attempt: From `agree_on_attempt`.
        snapshot: What was saved; its fragments are not looked at.
        wrote: This rank's report, or why it could not write.
        committed: On the coordinator how many bytes were written, or why there is no checkpoint.
        communicator: The ranks that save.
        notes: On the coordinator, those of all ranks.
        stored: On the coordinator, from `stored_after`.

    Raises:
        SaveFailedError: On every rank; see `save_checkpoint`.
    """
    frozen = snapshot.frozen
    verdict = communicator.broadcast(committed.message())
    if frozen is not None and error_in(verdict) is not None:
        frozen.failed()
    _raise_failure(snapshot.step, verdict, wrote, committed)
    size_bytes = value_in(verdict)
    assert isinstance(size_bytes, int)
    if frozen is not None:
        frozen.committed(attempt.token, stored)
    path = store.path(snapshot.step)
    if snapshot.own_shard is not None:
        snapshot.own_shard.committed(path, communicator.rank, reported_files(wrote.value))
    return SavedCheckpoint(step=snapshot.step, path=path, size_bytes=size_bytes, notes=tuple(notes))


def _begin(store: CheckpointStore, snapshot: Snapshot) -> JSON:
    require_json(snapshot.state, "state")
    require_json(snapshot.created_by, "created_by")
    try:
        with full_disk_told(store.folder, store.files):
            return store.publishing.begin(snapshot.step).encode()
    except OSError as error:
        raise SaveFailedError(f"rank 0: {error}") from error


def _write(store: CheckpointStore, attempt: SaveToken, snapshot: Snapshot, rank: int) -> JSON:
    require_same_step(attempt, snapshot.step, rank)
    report: list[JSON] = [
        write_shard(
            path,
            plan,
            files=store.files,
            block_bytes=store.block_bytes,
            earlier=earlier_of(path, plan, snapshot, store.block_bytes),
        ).encode()
        for path, plan in files_of(store, attempt, snapshot, rank)
    ]
    if snapshot.frozen is not None:
        snapshot.frozen.begin_proof()
        snapshot.frozen.prove()
    return report


def files_of(
    store: CheckpointStore, attempt: SaveToken, snapshot: Snapshot, rank: int
) -> list[tuple[PurePath, ShardPlan]]:
    """Return what files a rank writes, and what goes into each; none where it holds nothing."""
    publishing, frozen = store.publishing, snapshot.frozen
    content: list[tuple[PurePath, Iterable[Fragment]]] = [
        (publishing.object_path(attempt, rank), () if frozen is None else frozen.new),
        (publishing.shard_path(attempt, rank), snapshot.fragments),
    ]
    # Nothing of the attempt is in a file: of the same tensors it has the same bytes.
    own = snapshot.own_shard
    layouts = (Layouts(), Layouts() if own is None else own.layouts)
    plans = [
        (path, layout.plan(fragments, {}))
        for layout, (path, fragments) in zip(layouts, content, strict=True)
    ]
    return [(path, plan) for path, plan in plans if plan.fragments]


def earlier_of(
    path: PurePath, plan: ShardPlan, snapshot: Snapshot, block_bytes: int
) -> EarlierShard | None:
    """Return the committed file that may hold the same bytes as a shard to be written. Pure."""
    if snapshot.own_shard is None or is_object(name_of(path)):
        return None
    return snapshot.own_shard.like(plan.size_bytes, block_bytes)


def require_same_step(attempt: SaveToken, step: int, rank: int) -> None:
    """Refuse to write the state of one step into the checkpoint of another.

    Raises:
        ValueError: Naming both.
    """
    if step != attempt.step:
        raise ValueError(
            f"rank {rank} saves step {step}, the coordinator step {attempt.step}. All ranks must "
            "save the same step at the same time."
        )


def commit_of(attempt: SaveToken, messages: Sequence[JSON], snapshot: Snapshot) -> Commit:
    """Return what is to be committed, from the reports of the ranks. Called on the coordinator.

    Raises:
        SaveFailedError: If a rank could not write; names it.
    """
    _require_all_wrote(messages)
    return Commit(
        attempt=attempt,
        reports=[value_in(message) for message in messages],
        specs=snapshot.specs,
        state=snapshot.state,
        created_by=snapshot.created_by,
        kept=NOTHING_STORED if snapshot.frozen is None else snapshot.frozen.stored,
    )


def _publish(commit: Commit, publishing: CommitProtocol) -> int:
    publishing.before_publish()
    return commit.publish(publishing)


def or_abandon(publishing: CommitProtocol, attempt: SaveToken, action: Callable[[], JSON]) -> JSON:
    """Return what an action returns; where it fails, remove what the attempt has left.

    Called on the coordinator, when no rank writes any more.

    Raises:
        SaveFailedError: For an error of the storage, or of what the ranks wrote.
        BaseException: Any other is passed on.
    """
    try:
        return action()
    except BaseException as error:
        problem = str(error) if isinstance(error, SaveFailedError) else f"rank 0: {error}"
        try:
            publishing.abandon(attempt)
        except OSError as second:
            problem += f"; and {publishing.work_folder(attempt)} could not be removed: {second}"
            error.add_note(problem)
        # A ValueError is about coverage: what the ranks wrote does not fit together.
        if isinstance(error, OSError | ValueError | SaveFailedError):
            raise SaveFailedError(problem) from error
        raise


def _require_all_wrote(messages: Sequence[JSON]) -> None:
    failures = [
        f"rank {rank}: {error}"
        for rank, message in enumerate(messages)
        if (error := error_in(message)) is not None
    ]
    if len(failures) > _MAX_RANKS_SHOWN:
        num_more = len(failures) - _MAX_RANKS_SHOWN
        failures[_MAX_RANKS_SHOWN:] = [f"and {num_more} more ranks"]
    if failures:
        raise SaveFailedError("; ".join(failures))


def _raise_failure(step: int, verdict: JSON, *own: Outcome) -> None:
    for outcome in own:
        outcome.raise_unexpected()
    error = error_in(verdict)
    if error is not None:
        cause = next((outcome.error for outcome in own if outcome.error is not None), None)
        raise SaveFailedError(
            f"saving {step_folder(step)} failed: {error}. The other checkpoints are untouched."
        ) from cause
