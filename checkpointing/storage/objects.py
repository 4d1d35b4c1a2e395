"""Objects: files beside the checkpoints that several of them name. Which are named by none?

Who deletes asks the manifests every time. A count kept in a file could be wrong after a kill; what
the manifests say cannot.
"""

from collections.abc import Callable, Collection, Iterable
from pathlib import PurePath

from ..errors import DamagedCheckpointError
from ..format.manifest import Manifest
from ..format.manifest_json import parse_manifest
from ..format.names import OBJECTS_FOLDER, is_object, object_attempt, parse_step_folder
from .local_files import Files
from .small_files import read_whole


def all_objects(folder: PurePath, files: Files) -> list[str]:
    """Return the names of all objects of a store, from its folder.

    Raises:
        OSError: From the storage.
    """
    if not files.is_dir(folder / OBJECTS_FOLDER):
        return []
    names = (f"{OBJECTS_FOLDER}/{name}" for name in files.listdir(folder / OBJECTS_FOLDER))
    return [name for name in names if is_object(name)]


def objects_of_attempt(folder: PurePath, token: str, files: Files) -> list[str]:
    """Return the names of the objects that an attempt to save has written, of all ranks.

    Raises:
        OSError: From the storage.
    """
    return [name for name in all_objects(folder, files) if object_attempt(name) == token]


def unnamed(names: Collection[str], manifests: Iterable[PurePath], files: Files) -> list[str]:
    """Return which of some objects no manifest names; none, where a manifest cannot be read.

    What a damaged manifest names is unknown, so nothing is unnamed then.

    Args:
        names: Of the objects in question.
        manifests: Of all checkpoints of the store, those too that were set aside.
        files: How they are reached.

    Raises:
        OSError: From the storage.
    """
    left = set(names)
    for path in manifests:
        if not left:
            break
        manifest = manifest_at(path, files)
        if manifest is None:
            return []
        left -= manifest.objects
    return sorted(left)


def manifest_at(path: PurePath, files: Files) -> Manifest | None:
    """Return a manifest, None if it is damaged.

    Raises:
        OSError: From the storage, where it says nothing about the checkpoint.
    """
    try:
        return parse_manifest(read_whole(path, files))
    except (DamagedCheckpointError, ValueError):
        return None


def who_needs(name: str, manifests: Iterable[PurePath], files: Files) -> str:
    """Return a sentence: which checkpoints need an object, and the newest that does not."""
    found = _needing(manifests, files, lambda manifest: name in manifest.objects)
    return f"This object holds frozen tensors of the checkpoints of steps {found}"


def who_names(path: str, manifests: Iterable[PurePath], files: Files) -> str:
    """Return a sentence: which checkpoints need a file of others, and the newest that does not."""
    found = _needing(manifests, files, lambda manifest: path in manifest.named_paths)
    return f"{path} is named, not copied, by the checkpoints of steps {found}"


def _needing(manifests: Iterable[PurePath], files: Files, needs: Callable[[Manifest], bool]) -> str:
    needing: list[int] = []
    without: list[int] = []
    for at in manifests:
        step = parse_step_folder(at.parent.name)
        manifest = manifest_at(at, files)
        if step is not None and manifest is not None:
            (needing if needs(manifest) else without).append(step)
    needed_by = ", ".join(map(str, sorted(needing, reverse=True))) or "none"
    newest = f"is step {max(without)}" if without else "does not exist"
    return f"{needed_by}; the newest checkpoint without it {newest}"
