"""How files become a checkpoint and cease to be one: the part of a store that its place decides.

Where a folder can be renamed, that is the commit (`commit_by_rename.py`). Where there are only
objects, it is the manifest, put last (`commit_by_manifest.py`). Both promise the same: a kill at
any point leaves either nothing new or a complete checkpoint, and one that is there is not lost to a
later save of another step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath

from ..errors import SaveFailedError
from ..format.json_fields import Fields
from ..format.manifest import MANIFEST_NAME, Manifest
from ..format.names import (
    OBJECTS_FOLDER,
    file_path,
    new_token,
    object_attempt,
    object_name,
    step_folder,
)
from ..format.strict_json import JSON
from .local_files import Files
from .objects import all_objects, manifest_at, objects_of_attempt, unnamed


@dataclass(frozen=True, kw_only=True)
class SaveToken:
    """One attempt to save one step."""

    step: int
    token: str

    def encode(self) -> JSON:
        """Return what the other ranks need to know, as JSON."""
        return {"step": self.step, "token": self.token}

    @classmethod
    def parse(cls, value: JSON) -> "SaveToken":
        """Read back what the coordinator sent.

        Raises:
            ValueError: For missing or wrong fields.
        """
        fields = Fields(value, "the attempt", frozenset(("step", "token")))
        return cls(step=fields.integer("step"), token=fields.text("token"))


class CommitProtocol(ABC):
    """Makes and removes the checkpoints of one store.

    All but `shard_path`, `object_path`, `steps` and `has` is called on the coordinator only.

    Args:
        folder: The store's folder.
        files: How it is reached.
    """

    def __init__(self, folder: PurePath, files: Files) -> None:
        self.folder = folder
        self.files = files
        self.claim = ""
        """By what this run shows that the store is its own, where it has to: any process that has
        it may publish for this one."""
        self.before_publish: Callable[[], None] = lambda: None
        """Called on the coordinator right before a checkpoint is published, in the process that
        trains; what it raises is raised there, and nothing is published."""

    def path(self, step: int) -> PurePath:
        """Return where a complete checkpoint is.

        Raises:
            ValueError: For a negative step.
        """
        return self.folder / step_folder(step)

    def begin(self, step: int) -> SaveToken:
        """Begin a new attempt to save a step.

        Raises:
            OSError: From the storage.
            ValueError: For a negative step.
        """
        step_folder(step)
        return SaveToken(step=step, token=new_token())

    @abstractmethod
    def work_folder(self, attempt: SaveToken) -> PurePath:
        """Return the folder that the shards of an attempt are written to."""

    @abstractmethod
    def shard_path(self, attempt: SaveToken, rank: int) -> PurePath:
        """Return the file that a rank writes."""

    def object_path(self, attempt: SaveToken, rank: int) -> PurePath:
        """Return the object that a rank writes: nothing names it before the attempt's manifest."""
        return self.folder / object_name(rank, attempt.token)

    @abstractmethod
    def publish(self, attempt: SaveToken, manifest: Manifest) -> int:
        """Make an attempt the checkpoint of its step, durably; return the bytes it has written.

        Called after every rank has synced its shard.

        Raises:
            OSError: From the storage.
            SaveFailedError: If a shard is not what its rank reported, or if the checkpoint is in
                place but something after that failed.
            ValueError: If the manifest is not consistent: an element is missing or there twice.
        """

    @abstractmethod
    def abandon(self, attempt: SaveToken) -> None:
        """Remove what an attempt has left, when no rank writes any more.

        Raises:
            OSError: From the storage; `sweep` removes it later.
        """

    @abstractmethod
    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, newest first; the folder is there.

        Raises:
            OSError: From the storage.
        """

    @abstractmethod
    def has(self, step: int) -> bool:
        """Return whether there is a checkpoint of this step, whole or damaged."""

    @abstractmethod
    def withdraw(self, step: int) -> list[PurePath]:
        """Take a checkpoint's name away, durably; return the folders that are still to be removed.

        A kill leaves all of a checkpoint under its name, or none.

        Raises:
            OSError: From the storage; `sweep` removes the rest later.
        """

    @abstractmethod
    def set_aside(self, step: int) -> PurePath:
        """Keep a damaged checkpoint where nothing takes it for one; return where that is.

        Raises:
            OSError: From the storage.
        """

    @abstractmethod
    def refused(self) -> list[str]:
        """Return the names under which damaged checkpoints were set aside; the folder is there."""

    @abstractmethod
    def manifests(self) -> list[PurePath]:
        """Return the manifests of all checkpoints, newest first, then of those set aside."""

    def objects_of(self, step: int) -> frozenset[str]:
        """Return the objects that a checkpoint names; none, if its manifest is damaged.

        Raises:
            OSError: From the storage.
        """
        if not self.files.is_dir(self.folder / OBJECTS_FOLDER):
            return frozenset()
        manifest = manifest_at(self.path(step) / MANIFEST_NAME, self.files)
        return frozenset() if manifest is None else manifest.objects

    def unnamed(self, names: Collection[str]) -> list[PurePath]:
        """Return where those of some objects are that no checkpoint names (any more).

        Raises:
            OSError: From the storage.
        """
        if not names:
            return []
        return [self.folder / name for name in unnamed(names, self.manifests(), self.files)]

    def unnamed_objects(self) -> list[str]:
        """Return the objects that no checkpoint names: of a save in flight, or of one that died.

        Raises:
            OSError: From the storage.
        """
        names = all_objects(self.folder, self.files)
        return unnamed(names, self.manifests(), self.files) if names else []

    @abstractmethod
    def leftovers(self) -> list[str]:
        """Return the names of what saves and deletions have left; the folder is there."""

    @abstractmethod
    def sweep(self) -> list[str]:
        """Remove the leftovers; return their names. No save of this store is in flight.

        Raises:
            OSError: From the storage.
        """

    def _sync_objects(self, manifest: Manifest) -> None:
        """Make the names of the objects durable that this attempt has written."""
        if any(object_attempt(name) == manifest.token for name in manifest.objects):
            self.files.fsync_dir(self.folder / OBJECTS_FOLDER)

    def _remove_objects(self, names: Collection[str]) -> None:
        for name in names:
            # A writer process that is still removing it will finish that.
            with suppress(FileNotFoundError):
                self.files.unlink(self.folder / name)

    def _abandon_objects(self, attempt: SaveToken) -> None:
        """Remove what an attempt has left beside the checkpoints.

        Not all that it has written: it may be a checkpoint, of which only the last sync failed.
        """
        own = objects_of_attempt(self.folder, attempt.token, self.files)
        if own:
            self._remove_objects(unnamed(own, self.manifests(), self.files))

    def require_shards(self, attempt: SaveToken, manifest: Manifest) -> None:
        """Refuse an attempt of which a shard is not as long as its rank says.

        Raises:
            OSError: From the storage.
            SaveFailedError: Naming the shard.
        """
        folder = self.work_folder(attempt)
        for file in manifest.files:
            path = file_path(folder, file.name)
            found_bytes = self.files.size(path)
            if found_bytes != file.size_bytes:
                raise SaveFailedError(
                    f"{path} has {found_bytes} bytes on the coordinator, but its "
                    f"rank wrote {file.size_bytes}. Is the folder shared between the nodes?"
                )
