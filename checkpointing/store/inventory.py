"""What a store holds, without reading the tensors and without torch."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePath

from ..errors import DamagedCheckpointError, NoCheckpointError
from ..format.manifest import Manifest
from ..storage.local_files import Files
from ..storage.objects import manifest_at
from .store import CheckpointStore, bytes_of_files


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


def own_bytes(store: CheckpointStore, inventory: Inventory) -> dict[int, int]:
    """Return of each checkpoint that opens the bytes that its deletion alone would free, by step.

    Not among them: a shard that has another name, as one that did not change since the save before,
    and an object that another checkpoint names. Each manifest is read once.

    Raises:
        OSError: From the storage.
    """
    opened = {one.folder: one.manifest for one in inventory.found if one.manifest is not None}
    others = [
        manifest_at(path, store.files)
        for path in (store.publishing.manifests() if opened else ())
        if path.parent not in opened
    ]
    # What a damaged manifest names is unknown: no object is of one checkpoint alone then.
    all_are_known = None not in others
    names = Counter(n for one in (*opened.values(), *others) if one for n in one.objects)
    alone = {name for name, count in names.items() if count == 1 and all_are_known}
    return {
        manifest.step: own_bytes_of(folder, manifest, store.files, store.folder, alone)
        for folder, manifest in opened.items()
    }


def own_bytes_of(
    folder: PurePath,
    manifest: Manifest,
    files: Files,
    objects_in: PurePath | None = None,
    objects: Collection[str] = (),
) -> int:
    """Return the bytes of the shards of one checkpoint that have no other name.

    Args:
        folder: Where the checkpoint is.
        manifest: What it holds.
        files: How it is reached.
        objects_in: The folder of the store.
        objects: Of its objects those that count, too.

    Raises:
        OSError: From the storage.
    """
    sizes = {folder / one.name: one.size_bytes for one in manifest.files if not one.is_object}
    if objects_in is not None:
        named = (one for one in manifest.files if one.name in objects)
        sizes |= {objects_in / one.name: one.size_bytes for one in named}
    return bytes_of_files(sizes, files)


def _look(store: CheckpointStore, step: int) -> Found | None:
    folder = store.path(step)
    try:
        with store.open(step) as reader:
            return Found(step=step, folder=folder, manifest=reader.manifest)
    except NoCheckpointError:
        return None  # A run that is at work has let it go meanwhile.
    except DamagedCheckpointError as error:
        return Found(step=step, folder=folder, manifest=None, problem=str(error))
