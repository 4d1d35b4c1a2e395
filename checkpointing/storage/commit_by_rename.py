"""Commit by renaming a folder: for filesystems, local and shared.

A folder under its final name was complete when it got the name.
"""

from contextlib import suppress
from pathlib import PurePath

from ..errors import SaveFailedError
from ..format.manifest import MANIFEST_NAME, Manifest
from ..format.manifest_json import encode_manifest
from ..format.names import (
    is_checkpoint_name,
    is_leftover,
    is_refused,
    new_token,
    parse_step_folder,
    refused_folder,
    tmp_folder,
    trash_folder,
)
from ..format.shard_header import shard_name
from .commit_protocol import CommitProtocol, SaveToken
from .small_files import write_durably


class ByRename(CommitProtocol):
    """Prepares a checkpoint under another name; the name that means complete comes last."""

    def begin(self, step: int) -> SaveToken:
        """Make the folder of a new attempt."""
        attempt = super().begin(step)
        self.files.make_dirs(self.folder)
        self.files.mkdir(self.work_folder(attempt))
        return attempt

    def work_folder(self, attempt: SaveToken) -> PurePath:
        """Return the folder under its temporary name."""
        return self.folder / tmp_folder(attempt.step, attempt.token)

    def shard_path(self, attempt: SaveToken, rank: int) -> PurePath:
        """Return a rank's file under the temporary name."""
        return self.work_folder(attempt) / shard_name(rank)

    def publish(self, attempt: SaveToken, manifest: Manifest) -> int:
        """Write the manifest and rename the folder.

        An older checkpoint of this step (a damaged one, behind which the run fell back) is moved
        aside first, because a folder cannot be renamed onto another. A kill between the two
        renames leaves the step with no checkpoint at all; those of other steps are not concerned.
        """
        files, tmp, final = self.files, self.work_folder(attempt), self.path(attempt.step)
        trash = self.folder / trash_folder(attempt.step, attempt.token)
        text = encode_manifest(manifest)
        self.require_shards(attempt, manifest)
        self._sync_objects(manifest)
        write_durably(tmp / MANIFEST_NAME, text, files)
        # The names of the shards and the manifest must be durable before the name that vouches
        # for them: a rename can outlive a power loss that the files' names do not.
        files.fsync_dir(tmp)
        is_replacing = files.is_dir(final)
        if is_replacing:
            files.rename(final, trash)
        try:
            files.rename(tmp, final)
        except OSError:
            if is_replacing:
                files.rename(trash, final)
            raise
        self._settle(final, trash if is_replacing else None)
        return manifest.written_bytes + len(text)

    def abandon(self, attempt: SaveToken) -> None:
        """Remove what an attempt has left under its temporary name."""
        tmp = self.work_folder(attempt)
        if self.files.is_dir(tmp):
            self.files.rmtree(tmp)
        self._abandon_objects(attempt)

    def steps(self) -> list[int]:
        """Return the steps that have a folder under the final name."""
        found = []
        for name in self.files.listdir(self.folder):
            step = parse_step_folder(name)
            if step is not None and self.files.is_dir(self.folder / name):
                found.append(step)
        return sorted(found, reverse=True)

    def has(self, step: int) -> bool:
        """Return whether the folder is there."""
        return self.files.is_dir(self.path(step))

    def withdraw(self, step: int) -> list[PurePath]:
        """Give a checkpoint a name that is never read."""
        trash = self.folder / trash_folder(step, new_token())
        self.files.rename(self.path(step), trash)
        # Otherwise a power loss could bring the name back and not the content.
        self.files.fsync_dir(self.folder)
        return [trash]

    def set_aside(self, step: int) -> PurePath:
        """Rename the folder."""
        aside = self.folder / refused_folder(step, new_token())
        self.files.rename(self.path(step), aside)
        self.files.fsync_dir(self.folder)
        return aside

    def refused(self) -> list[str]:
        """Return the names of the folders that were set aside."""
        return [name for name in self.files.listdir(self.folder) if is_refused(name)]

    def manifests(self) -> list[PurePath]:
        """Return the manifests of the folders under final names, then of those set aside."""
        names = filter(is_checkpoint_name, self.files.listdir(self.folder))
        folders = sorted(names, key=lambda name: (parse_step_folder(name) is not None, name))
        return [self.folder / name / MANIFEST_NAME for name in reversed(folders)]

    def leftovers(self) -> list[str]:
        """Return the names of temporary folders, and of objects that nothing names."""
        return [*self._temporary_folders(), *self.unnamed_objects()]

    def sweep(self) -> list[str]:
        """Remove the temporary folders, and the objects that nothing names."""
        if not self.files.exists(self.folder):
            return []
        names, objects = self._temporary_folders(), self.unnamed_objects()
        for name in names:
            # A writer process that is still removing it will finish that.
            with suppress(FileNotFoundError):
                self.files.rmtree(self.folder / name)
        self._remove_objects(objects)
        return names + objects

    def _temporary_folders(self) -> list[str]:
        return [
            name
            for name in self.files.listdir(self.folder)
            if is_leftover(name) and self.files.is_dir(self.folder / name)
        ]

    def _settle(self, final: PurePath, trash: PurePath | None) -> None:
        try:
            self.files.fsync_dir(self.folder)
        except OSError as error:
            raise SaveFailedError(
                f"{final} is complete, but may not outlive a power loss: syncing "
                f"{self.folder} failed with {error}"
            ) from error
        if trash is None:
            return
        try:
            self.files.rmtree(trash)
        except OSError as error:
            raise SaveFailedError(
                f"{final} is complete, but its predecessor {trash} could not be removed: {error}"
            ) from error
