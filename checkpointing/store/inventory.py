"""What a store holds, without reading the tensors and without torch."""

from dataclasses import dataclass
from pathlib import PurePath

from ..errors import DamagedCheckpointError, NoCheckpointError
from ..format.manifest import Manifest
from .store import CheckpointStore


@dataclass(frozen=True, kw_only=True)
class Found:
    """One step of a store."""

    step: int
    folder: PurePath

    manifest: Manifest | None
    """None if the checkpoint does not open."""

    problem: str = ""
    """Why it does not open: the manifest is not sound, or a file is missing or cut off."""


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """All that a store's folder holds under names of this format."""

    found: tuple[Found, ...]
    """Newest first."""

    refused: tuple[str, ...]
    """Names of the checkpoints that a run found damaged and set aside."""

    leftovers: tuple[str, ...]
    """Names of saves and deletions: in flight, or of processes that died."""


def take_inventory(store: CheckpointStore) -> Inventory:
    """Look at every checkpoint of a store; a missing folder holds nothing.

    Raises:
        OSError: From the disk, where it says nothing about a checkpoint (no permission).
    """
    if not store.files.exists(store.folder):
        return Inventory(found=(), refused=(), leftovers=())
    return Inventory(
        found=tuple(found for step in store.steps() if (found := _look(store, step))),
        refused=tuple(store.publishing.refused()),
        leftovers=tuple(store.publishing.leftovers()),
    )


def _look(store: CheckpointStore, step: int) -> Found | None:
    folder = store.path(step)
    try:
        with store.open(step) as reader:
            return Found(step=step, folder=folder, manifest=reader.manifest)
    except NoCheckpointError:
        return None  # A run that is at work has let it go meanwhile.
    except DamagedCheckpointError as error:
        return Found(step=step, folder=folder, manifest=None, problem=str(error))
