"""The folder that holds the checkpoints of one run."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

from ..errors import DamagedCheckpointError, NoCheckpointError, SaveFailedError
from ..format.manifest import BLOCK_BYTES, MANIFEST_NAME, MAX_BLOCK_BYTES
from ..format.names import OBJECTS_FOLDER, PIN_NAME, new_token, probe_folder, step_folder
from ..reading.reader import CheckpointReader
from ..reading.verify import find_damage, load_manifest
from ..storage.local_files import LOCAL_FILES, Files
from ..storage.locations import publishing_of
from ..storage.objects import manifest_at, unnamed
from ..storage.small_files import remove, write_durably

_MAX_STEPS_SHOWN = 5


class CheckpointStore:
    """Checkpoints by step, in a folder or in an object store.

    Attributes:
        folder: Where the checkpoints are; made by the first save.
        files: How this package reaches them.
        publishing: How a save becomes a checkpoint there.
        block_bytes: The bytes under one checksum in what is saved from now on.
        weight_files: Where tensors that checkpoints name in files of others are looked for first.
    """

    def __init__(
        self, folder: PurePath, files: Files = LOCAL_FILES, *, block_bytes: int = BLOCK_BYTES
    ) -> None:
        if not 1 <= block_bytes <= MAX_BLOCK_BYTES:
            raise ValueError(f"block_bytes={block_bytes} is not in [1, {MAX_BLOCK_BYTES}].")
        self.folder = folder
        self.files = files
        self.block_bytes = block_bytes
        self.publishing = publishing_of(folder, files)
        self.weight_files: Sequence[Path] = ()

    def path(self, step: int) -> PurePath:
        """Return the folder of a step, whether it exists or not."""
        return self.publishing.path(step)

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, newest first; none if the folder is missing.

        Ranks may see different answers for a moment on a shared filesystem: the coordinator
        asks and broadcasts.

        Raises:
            OSError: From the storage.
        """
        return self.publishing.steps() if self.files.exists(self.folder) else []

    def open(self, step: int) -> CheckpointReader:
        """Prove the manifest of a step and the presence of its files; return a reader.

        The content of the files is checked as it is read.

        Raises:
            DamagedCheckpointError: Naming the file.
            NoCheckpointError: If there is no such step.
            OSError: From the storage, where it says nothing about the checkpoint (no permission).
        """
        self._require_step(step)
        manifest = load_manifest(self.path(step), step, self.files)
        return CheckpointReader(self.path(step), manifest, self.files, self.weight_files)

    def verify(self, step: int) -> list[str]:
        """Re-read every byte of a step, without torch; return all damage, empty if there is none.

        Raises:
            NoCheckpointError: If there is no such step.
        """
        self._require_step(step)
        try:
            manifest = load_manifest(self.path(step), step, self.files)
        except DamagedCheckpointError as error:
            return [str(error)]
        return find_damage(self.path(step), manifest, self.files, self.weight_files)

    def delete(self, step: int) -> None:
        """Delete a checkpoint.

        Called on the coordinator only, after a newer checkpoint was committed.

        Raises:
            NoCheckpointError: If there is no such step.
            SaveFailedError: If it is pinned, or the storage refuses; `sweep` removes the rest.
        """
        for path in self.withdraw(step):
            try:
                remove(path, self.files)
            except OSError as error:
                raise self._not_deleted(step, error) from error

    def withdraw(self, step: int, *, spared: frozenset[str] = frozenset()) -> list[PurePath]:
        """Make a checkpoint invisible; return what is to be removed.

        That is its folder, and the objects that only it named. This is fast; removing gigabytes
        takes seconds. What the caller does not remove, `sweep` does. Called on the coordinator
        only, after a newer checkpoint was committed.

        Args:
            step: Of the checkpoint.
            spared: Objects that stay though no checkpoint names them: a save in flight does.

        Raises:
            NoCheckpointError: If there is no such step.
            SaveFailedError: If it is pinned, or the storage refuses.
        """
        self._require_step(step)
        if self.is_pinned(step):
            raise SaveFailedError(f"{self.path(step)} is pinned: {PIN_NAME} lies in it.")
        try:
            objects = self.publishing.objects_of(step) - spared
            folders = self.publishing.withdraw(step)
            # Not before: a kill in between leaves objects that nothing names, and `sweep` finds.
            return [*folders, *self.publishing.unnamed(objects)]
        except OSError as error:
            raise self._not_deleted(step, error) from error

    def freed_bytes(self, steps: Collection[int]) -> int:
        """Return how many bytes the deletion of checkpoints would free; deletes nothing.

        A file counts where all that name it are among these.

        Raises:
            OSError: From the storage.
        """
        return bytes_of_files(self.files_going_with(steps), self.files)

    def files_going_with(self, steps: Collection[int]) -> dict[PurePath, int]:
        """Return the files that the deletion of checkpoints would remove, with their bytes.

        An object is among them if all the checkpoints that name it are.

        Raises:
            OSError: From the storage.
        """
        going = {self.path(step) / MANIFEST_NAME for step in steps}
        read = {path.parent: manifest_at(path, self.files) for path in going}
        files = [(at, file) for at, one in read.items() if one is not None for file in one.files]
        sizes = {file.name: file.size_bytes for _, file in files if file.is_object}
        staying = [path for path in self.publishing.manifests() if path not in going]
        freed = unnamed(sizes, staying, self.files) if sizes else []
        shards = {at / file.name: file.size_bytes for at, file in files if not file.is_object}
        return shards | {self.folder / name: sizes[name] for name in freed}

    def share_objects(self, other: "CheckpointStore", names: Collection[str]) -> bool:
        """Have objects of another store here too, durably and without a copy, under the same names.

        Called on the coordinator only. Nothing names them yet: `sweep` would remove them.

        Returns:
            Whether all are there. They are not where the storage has no links, or not between the
            two places, or does not answer.
        """
        if not names:  # all frozen tensors are named in files of others
            return True
        try:
            self.files.make_dirs(self.folder / OBJECTS_FOLDER)
            for name in names:
                path, there = self.folder / name, other.folder / name
                if not self.files.exists(path):
                    self.files.link(there, path)
                elif self.files.size(path) != other.files.size(there):
                    return False
            self.files.fsync_dir(self.folder / OBJECTS_FOLDER)
        except OSError:
            return False
        return True

    def has_objects(self, names: Collection[str]) -> bool:
        """Return whether objects are there, each by its name from the store's folder.

        Raises:
            OSError: From the storage.
        """
        return all(self.files.exists(self.folder / name) for name in names)

    def is_pinned(self, step: int) -> bool:
        """Return whether this step is pinned: kept regardless of retention."""
        return self.files.exists(self.path(step) / PIN_NAME)

    def pin(self, step: int) -> None:
        """Keep a checkpoint permanently; it may be pinned already. Durable on return.

        Raises:
            NoCheckpointError: If there is no such step.
            OSError: From the storage.
        """
        self._require_step(step)
        if not self.is_pinned(step):
            write_durably(self.path(step) / PIN_NAME, b"", self.files)
            self.files.fsync_dir(self.path(step))

    def unpin(self, step: int) -> None:
        """Remove the pin, if there is one.

        Raises:
            NoCheckpointError: If there is no such step.
            OSError: From the storage.
        """
        self._require_step(step)
        if self.is_pinned(step):
            self.files.unlink(self.path(step) / PIN_NAME)
            self.files.fsync_dir(self.path(step))

    def set_aside(self, step: int) -> PurePath:
        """Rename a damaged checkpoint, so that it is not mistaken for the newest.

        The run that fell back behind it will reach this step again, and retention must not count
        it. Called on the coordinator only.

        Returns:
            Its new folder, with all its files.

        Raises:
            NoCheckpointError: If there is no such step.
            SaveFailedError: If the storage refuses.
        """
        self._require_step(step)
        try:
            return self.publishing.set_aside(step)
        except OSError as error:
            raise SaveFailedError(f"{self.path(step)} could not be set aside: {error}") from error

    def sweep(self) -> list[str]:
        """Remove the remains of interrupted saves and deletions; return the names removed.

        Called on the coordinator only, at the start of a run, when no save is in flight. In an
        object store, whose writers no lock keeps apart, it also takes the store over: what an
        earlier writer tries to commit from then on fails.

        Raises:
            OSError: From the storage.
            SaveFailedError: If another run has taken this store over since.
        """
        return self.publishing.sweep()

    def check_writable(self) -> None:
        """Make, sync and remove a file, so that a bad folder is found before the training.

        Raises:
            SaveFailedError: Naming the folder and the cause.
        """
        probe = self.folder / probe_folder(new_token())
        try:
            self.files.make_dirs(self.folder)
            self.files.mkdir(probe)
            try:
                write_durably(probe / "probe", b"probe", self.files)
                self.files.fsync_dir(probe)
            finally:
                self.files.rmtree(probe)
        except OSError as error:
            raise SaveFailedError(
                f"cannot save checkpoints in {self.folder}: {error}. Choose a folder that every "
                "node can write to."
            ) from error

    def _not_deleted(self, step: int, error: OSError) -> SaveFailedError:
        return SaveFailedError(f"{self.path(step)} could not be deleted: {error}")

    def _require_step(self, step: int) -> None:
        if self.publishing.has(step):
            return
        steps = self.steps()
        shown = ", ".join(str(step) for step in steps[:_MAX_STEPS_SHOWN]) or "none"
        more = ", ..." if len(steps) > _MAX_STEPS_SHOWN else ""
        raise NoCheckpointError(
            f"{self.folder} has no {step_folder(step)}; its newest steps: {shown}{more}."
        )


def bytes_of_files(sizes_bytes: Mapping[PurePath, int], files: Files) -> int:
    """Return the bytes that the removal of files would free: of those with no other name.

    Args:
        sizes_bytes: By path. What is not there counts nothing.
        files: How they are reached.

    Raises:
        OSError: From the storage.
    """
    left: dict[Hashable, int] = {}
    total = 0
    for path, size_bytes in sizes_bytes.items():
        with suppress(FileNotFoundError):
            identity, num_names = files.identity(path)
            left[identity] = left.get(identity, num_names) - 1
            total += size_bytes if not left[identity] else 0
    return total
