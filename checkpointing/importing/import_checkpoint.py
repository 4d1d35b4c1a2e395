"""Write another program's checkpoint as one of this format."""

from collections.abc import Iterator
from pathlib import Path

from ..errors import DamagedCheckpointError, SaveFailedError
from ..format.fragment import Fragment
from ..format.strict_json import JSON
from ..saving.collective_outcome import run_guarded
from ..saving.communicator import LocalCommunicator
from ..saving.save import SavedCheckpoint, agree_on_attempt, conclude
from ..saving.shard_plan import plan_shard
from ..saving.shard_writer import write_shard
from ..saving.snapshot import Snapshot
from ..storage.commit_protocol import SaveToken
from ..storage.local_files import LOCAL_FILES, Files
from ..store.store import CheckpointStore
from .dcp import METADATA_NAME, open_dcp
from .deepspeed import is_deepspeed, open_deepspeed
from .hugging_face import open_safetensors
from .source import Foreign, Source

_FILE_BYTES = 1 << 30
"""The memory that an import takes, unless one tensor is larger."""


def open_foreign(folder: Path, *, prefix: str | None = None, files: Files = LOCAL_FILES) -> Source:
    """Find out what a folder holds, and open it; no tensor is read yet.

    Args:
        folder: Of torch DCP, DeepSpeed (native or universal), or Hugging Face.
        prefix: What stands before the model's own names; None: found out where that is possible.
        files: How to reach the disk.

    Raises:
        DamagedCheckpointError: If a file is damaged, or wants to run code.
        ValueError: If the folder is none of these.
    """
    if files.exists(folder / METADATA_NAME):
        return open_dcp(folder, files, prefix=prefix)
    if is_deepspeed(folder, files):
        return open_deepspeed(folder, files, prefix=prefix)
    if any(name.endswith(".safetensors") for name in files.listdir(folder)):
        return open_safetensors(folder, files, prefix=prefix)
    raise ValueError(
        f"{folder} has neither {METADATA_NAME} (torch DCP), nor *_model_states.pt (DeepSpeed), nor "
        "*.safetensors (Hugging Face). Pass the folder that holds these files."
    )


def import_checkpoint(
    store: CheckpointStore, source: Source, *, state: dict[str, JSON], created_by: dict[str, JSON]
) -> SavedCheckpoint:
    """Write a source as the checkpoint of step 0, in bounded memory. Called in one process.

    Args:
        store: Must hold no checkpoint yet.
        source: From `open_foreign`.
        state: What the checkpoint keeps besides tensors.
        created_by: Who wrote it, for people.

    Raises:
        DamagedCheckpointError: If the source is damaged; nothing is written then.
        SaveFailedError: If the disk refuses.
        ValueError: If the store holds checkpoints, or the source no tensor.
    """
    if steps := store.steps():
        raise ValueError(f"{store.folder} holds step {steps[0]} already. Pass a new run folder.")
    if not source.tensors:
        raise ValueError(f"the {source.kind} checkpoint holds no tensor.")
    snapshot = Snapshot(
        step=0,
        specs=[foreign.spec for foreign in source.tensors],
        fragments=(),
        state=state,
        created_by=created_by,
    )
    alone = LocalCommunicator()
    attempt = agree_on_attempt(store, snapshot, alone)
    wrote = run_guarded(lambda: _write(store, attempt, source))
    try:
        return conclude(store, attempt, snapshot, wrote, alone)
    except SaveFailedError:
        if isinstance(wrote.error, DamagedCheckpointError):
            raise wrote.error from None  # it is the source that is at fault
        raise


def _write(store: CheckpointStore, attempt: SaveToken, source: Source) -> JSON:
    metadata = {"step": "0", "token": attempt.token}
    report: list[JSON] = []
    for number, group in enumerate(_groups(source)):
        fragments = [
            Fragment(spec=one.spec, start=0, end=one.spec.numel, data=one.read()) for one in group
        ]
        plan = plan_shard(fragments, metadata)
        if plan.fragments:
            path = store.publishing.shard_path(attempt, number)
            report.append(
                write_shard(path, plan, files=store.files, block_bytes=store.block_bytes).encode()
            )
    return report


def _groups(source: Source) -> Iterator[list[Foreign]]:
    group: list[Foreign] = []
    size_bytes = 0
    for one in source.tensors:
        if group and size_bytes + one.spec.size_bytes > _FILE_BYTES:
            yield group
            group, size_bytes = [], 0
        group.append(one)
        size_bytes += one.spec.size_bytes
    yield group
