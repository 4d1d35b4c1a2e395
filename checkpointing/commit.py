"""The coordinator's part of a save: prepare a folder, publish it whole, or remove it.

A kill at any point leaves either no new name or a complete checkpoint under it.
"""

from dataclasses import dataclass
from pathlib import Path

from .errors import SaveFailedError
from .fields import Fields
from .files import Files
from .manifest import MANIFEST_NAME, Manifest
from .manifest_text import encode_manifest
from .names import new_token, step_folder, tmp_folder, trash_folder
from .strict_json import JSON
from .whole_file import write_durably


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt to save one step."""

    folder: Path
    """The store's folder."""

    step: int
    token: str

    @property
    def tmp(self) -> Path:
        """Where the shards are written."""
        return self.folder / tmp_folder(self.step, self.token)

    @property
    def final(self) -> Path:
        """The name that means complete."""
        return self.folder / step_folder(self.step)

    @property
    def trash(self) -> Path:
        """Where an older checkpoint of the same step goes."""
        return self.folder / trash_folder(self.step, self.token)

    def encode(self) -> JSON:
        """Return what the other ranks need to know, as JSON."""
        return {"step": self.step, "token": self.token}

    @classmethod
    def parse(cls, value: JSON, folder: Path) -> "Attempt":
        """Read back what the coordinator sent.

        Raises:
            ValueError: For missing or wrong fields.
        """
        fields = Fields(value, "the attempt", frozenset(("step", "token")))
        return cls(folder=folder, step=fields.integer("step"), token=fields.text("token"))


def begin(folder: Path, step: int, files: Files) -> Attempt:
    """Make the folder of a new attempt.

    Called on the coordinator only.

    Raises:
        OSError: From the disk.
        ValueError: For a negative step.
    """
    attempt = Attempt(folder=folder, step=step, token=new_token())
    files.make_dirs(folder)
    files.mkdir(attempt.tmp)
    return attempt


def publish(attempt: Attempt, manifest: Manifest, files: Files) -> int:
    """Make an attempt the checkpoint of its step, durably; return its size in bytes.

    An older checkpoint of this step (a damaged one, behind which the run fell back) is moved
    aside first, because a folder cannot be renamed onto another. A kill between the two renames
    leaves the step with no checkpoint at all; the checkpoints of other steps are not concerned.

    Called on the coordinator only, after every rank has synced its shard.

    Raises:
        OSError: From the disk.
        SaveFailedError: If a shard is not what its rank reported, or if the checkpoint is in
            place but something after that failed.
        ValueError: If the manifest is not consistent: an element is missing or there twice.
    """
    text = encode_manifest(manifest)
    for file in manifest.files:
        found_bytes = files.size(attempt.tmp / file.name)
        if found_bytes != file.size_bytes:
            raise SaveFailedError(
                f"{attempt.tmp / file.name} has {found_bytes} bytes on the coordinator, but its "
                f"rank wrote {file.size_bytes}. Is the folder shared between the nodes?"
            )
    write_durably(attempt.tmp / MANIFEST_NAME, text, files)
    # The names of the shards and the manifest must be durable before the name that vouches for
    # them: a rename can outlive a power loss that the files' names do not.
    files.fsync_dir(attempt.tmp)
    is_replacing = files.is_dir(attempt.final)
    if is_replacing:
        files.rename(attempt.final, attempt.trash)
    try:
        files.rename(attempt.tmp, attempt.final)
    except OSError:
        if is_replacing:
            files.rename(attempt.trash, attempt.final)
        raise
    _settle(attempt, is_replacing, files)
    return manifest.size_bytes + len(text)


def abandon(attempt: Attempt, files: Files) -> None:
    """Remove what an attempt has left under its temporary name.

    Called on the coordinator only, when no rank writes any more.

    Raises:
        OSError: From the disk; `CheckpointStore.sweep` removes it later.
    """
    if files.is_dir(attempt.tmp):
        files.rmtree(attempt.tmp)


def _settle(attempt: Attempt, is_replacing: bool, files: Files) -> None:
    try:
        files.fsync_dir(attempt.folder)
    except OSError as error:
        raise SaveFailedError(
            f"{attempt.final} is complete, but may not outlive a power loss: syncing "
            f"{attempt.folder} failed with {error}"
        ) from error
    if is_replacing:
        try:
            files.rmtree(attempt.trash)
        except OSError as error:
            raise SaveFailedError(
                f"{attempt.final} is complete, but its predecessor {attempt.trash} could not be "
                f"removed: {error}"
            ) from error
