"""Commit by the manifest alone: for object stores, which put a whole object or nothing.

The shards are put first, under names that no other attempt uses; the manifest is the last object.
A folder without a manifest is no checkpoint, and what no manifest names is a leftover. No lock
keeps two writers apart, so the last one to come owns the store: the other's commits fail.
"""

import json
import socket
from pathlib import PurePath

from ..errors import DamagedCheckpointError, SaveFailedError
from ..format.manifest import MANIFEST_NAME, Manifest
from ..format.manifest_json import encode_manifest, parse_manifest
from ..format.names import (
    OWNER_NAME,
    PIN_NAME,
    is_leftover,
    is_object,
    is_refused_manifest,
    new_token,
    parse_step_folder,
    refused_manifest,
)
from ..format.shard_header import SHARD_NAME, shard_name
from .commit_protocol import CommitProtocol, SaveToken
from .small_files import read_whole, write_durably


class ByManifest(CommitProtocol):
    """Puts the shards where they stay; the manifest vouches for them."""

    def work_folder(self, attempt: SaveToken) -> PurePath:
        """Return the checkpoint's own folder."""
        return self.path(attempt.step)

    def shard_path(self, attempt: SaveToken, rank: int) -> PurePath:
        """Return a rank's object, with the attempt in its name."""
        return self.work_folder(attempt) / shard_name(rank, attempt.token)

    def publish(self, attempt: SaveToken, manifest: Manifest) -> int:
        """Put the manifest and read it back.

        A checkpoint of the same step is replaced in this one operation; its shards, which no
        manifest names any more, are left for `sweep`.
        """
        text = encode_manifest(manifest)
        self.require_shards(attempt, manifest)
        self._require_owned()
        path = self.path(attempt.step) / MANIFEST_NAME
        try:
            write_durably(path, text, self.files)
        except OSError:
            # The answer may be lost, and not the object.
            if self._read(path) != text:
                raise
        if self._read(path) != text:
            raise SaveFailedError(f"{path} is not what was put there.")
        return manifest.written_bytes + len(text)

    def abandon(self, attempt: SaveToken) -> None:
        """Remove what an attempt has put, its manifest first."""
        folder = self.work_folder(attempt)
        text = self._read(folder / MANIFEST_NAME)
        if text is not None and _token(text) == attempt.token:
            self.files.unlink(folder / MANIFEST_NAME)
        own = [name for name in self._names(folder) if _attempt_of(name) == attempt.token]
        for name in own:
            self.files.unlink(folder / name)
        self._abandon_objects(attempt)

    def steps(self) -> list[int]:
        """Return the steps whose folder has a manifest."""
        steps = (parse_step_folder(name) for name in self.files.listdir(self.folder))
        return sorted((s for s in steps if s is not None and self.has(s)), reverse=True)

    def has(self, step: int) -> bool:
        """Return whether the manifest is there."""
        return self.files.exists(self.path(step) / MANIFEST_NAME)

    def withdraw(self, step: int) -> list[PurePath]:
        """Remove the manifest, then what it named: other attempts may have objects there."""
        self.files.unlink(self.path(step) / MANIFEST_NAME)
        self._clear(self.path(step))
        return []

    def set_aside(self, step: int) -> PurePath:
        """Give the manifest another name: nothing reads such a checkpoint, nothing removes it."""
        folder = self.path(step)
        aside = folder / refused_manifest(new_token())
        write_durably(aside, read_whole(folder / MANIFEST_NAME, self.files), self.files)
        self.files.unlink(folder / MANIFEST_NAME)
        return aside

    def refused(self) -> list[str]:
        """Return the names of the manifests that were set aside, with their folders."""
        return [
            f"{folder.name}/{name}"
            for folder in self._step_folders()
            for name in self._names(folder)
            if is_refused_manifest(name)
        ]

    def manifests(self) -> list[PurePath]:
        """Return the manifests under their own names, newest first, then those set aside."""
        folders = reversed(self._step_folders())
        paths = [folder / name for folder in folders for name in self._names(folder)]
        kept = [p for p in paths if p.name == MANIFEST_NAME or is_refused_manifest(p.name)]
        return sorted(kept, key=lambda path: path.name != MANIFEST_NAME)

    def leftovers(self) -> list[str]:
        """Return one name for each attempt of which there are shards and no manifest."""
        found = [name for name in self.files.listdir(self.folder) if is_leftover(name)]
        for folder in self._step_folders():
            attempts = dict.fromkeys(_pattern(name) for name in self._stale(folder))
            found += [f"{folder.name}/{pattern}" for pattern in attempts]
        return found + self.unnamed_objects()

    def sweep(self) -> list[str]:
        """Take the store over, then remove what no manifest names."""
        self._take_over()
        names = self.leftovers()
        for name in self.files.listdir(self.folder):
            if is_leftover(name):
                self.files.rmtree(self.folder / name)
        for folder in self._step_folders():
            self._clear(folder)
        self._remove_objects([name for name in names if is_object(name)])
        return names

    def _take_over(self) -> None:
        """Become the owner, once: who lost the store since does not get it back by a rollback."""
        if self.claim:
            self._require_owned()
            return
        claim = new_token()
        owner = {"token": claim, "host": socket.gethostname()}
        write_durably(self.folder / OWNER_NAME, json.dumps(owner).encode(), self.files)
        self.claim = claim

    def _require_owned(self) -> None:
        if not self.claim:
            return
        owner = _object(self._read(self.folder / OWNER_NAME) or b"{}")
        if owner.get("token") != self.claim:
            raise SaveFailedError(
                f"{self.folder} was taken over by another run (on {owner.get('host')}), so this "
                "one commits nothing there. End one of them, or give each a place of its own."
            )

    def _step_folders(self) -> list[PurePath]:
        names = self.files.listdir(self.folder)
        return [self.folder / name for name in names if parse_step_folder(name) is not None]

    def _names(self, folder: PurePath) -> list[str]:
        try:
            return self.files.listdir(folder)
        except FileNotFoundError:
            return []

    def _stale(self, folder: PurePath) -> list[str]:
        """Return the names in a step's folder that no manifest of it names."""
        names = self._names(folder)
        if PIN_NAME in names and MANIFEST_NAME not in names:
            return []  # A person wanted this to stay: that its manifest is gone is theirs to see.
        kept = {PIN_NAME}
        for name in names:
            if name != MANIFEST_NAME and not is_refused_manifest(name):
                continue
            text = self._read(folder / name)
            try:
                manifest = parse_manifest(text or b"")
            except ValueError:
                return []  # What a damaged manifest names is unknown.
            kept |= {name, *(file.name for file in manifest.files)}
        return [name for name in names if name not in kept]

    def _clear(self, folder: PurePath) -> None:
        stale = self._stale(folder)
        if stale and set(stale) == set(self._names(folder)):
            self.files.rmtree(folder)
            return
        for name in stale:
            self.files.unlink(folder / name)

    def _read(self, path: PurePath) -> bytes | None:
        """Return an object's bytes, None if it is not there."""
        try:
            return read_whole(path, self.files)
        except DamagedCheckpointError:
            return None


def _object(text: bytes) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _token(text: bytes) -> object:
    return _object(text).get("token")


def _attempt_of(name: str) -> str:
    """Return the attempt's token in the name of a shard; empty for anything else."""
    match = SHARD_NAME.fullmatch(name)
    return (match[1] or "").removeprefix("-") if match else ""


def _pattern(name: str) -> str:
    token = _attempt_of(name)
    return f"*-{token}.safetensors" if token else name
