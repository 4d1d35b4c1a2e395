"""The run folder: what a person reads, and where the checkpoints are."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from checkpointing import CheckpointStore, Place, PlaceError, SaveFailedError, is_url, place_at
from checkpointing.storage.local_files import LOCAL_FILES
from strategies import ConfigError

from .jsonl import EVENTS, METRICS, event_of, events_of
from .lines.appending import LineFile
from .lines.fields import Record, is_event, parse, skipped_text
from .lines.reading import newest
from .lock import FolderUnavailableError
from .lost_work import LostWork
from .plain_files import NO_ROOM, open_plain, replace_text, require_plain

RECENT_BYTES = 1 << 19
"""Of events.jsonl, from which a start learns how saves and failures went of late."""
_OWN_FILES = ("run.json", EVENTS, METRICS, ".lock")


def unwritable_text(path: Path, error: OSError) -> str:
    """Return the sentence about a run folder that cannot be written at the start."""
    return (
        f"the run folder {path} cannot be written: {error.strerror}. Choose another with --run-dir."
    )


def _to_stderr(sentence: str) -> None:
    print(f"relaunch: warning: {sentence}", file=sys.stderr, flush=True)


class RunFolder:
    """Paths for every rank; the methods that write are for the coordinator only."""

    def __init__(
        self,
        path: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        place: Place | None = None,
    ) -> None:
        self.path = path
        at = Place(folder=path, files=LOCAL_FILES) if place is None else place
        self.elsewhere = None if place is None else str(place.folder)
        """Where the checkpoints are, if not in the folder: another folder, or a URL."""
        self.checkpoints = CheckpointStore(at.folder / "checkpoints", at.files)
        self.best = CheckpointStore(at.folder / "best", at.files)
        self._now = now
        self.warn: Callable[[str], None] = _to_stderr
        """Takes a sentence about what does not work here."""
        self.is_ours: Callable[[], bool] = lambda: True
        """Tells whether no other run has taken the folder."""
        self.mask: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda details: details
        """Takes secrets out of an event."""
        self.described: Mapping[str, Any] = {}
        """What run.json says, as this start has written it; on the coordinator only."""
        self._device: int | None = None
        """Of the file system on which the folder was at the start; on the coordinator only."""
        self._events = self._line_file(EVENTS)
        self._metrics = self._line_file(METRICS)

    def create(self) -> None:
        """Make the folder and prove that it can be written. Called on the coordinator only.

        Raises:
            FolderUnavailableError: it cannot.
            ConfigError: one of its files is a link, or the checkpoints' place cannot be written.
        """
        probe = self.path / f".writable-{os.getpid()}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            os.close(open_plain(probe, os.O_WRONLY | os.O_CREAT))
            probe.unlink()
            self._device = self.path.stat().st_dev
            for name in _OWN_FILES:
                require_plain(self.path / name)
        except OSError as error:
            if error.errno == errno.ELOOP and error.filename:
                raise ConfigError(
                    f"{error.filename} cannot be written: {error.strerror}."
                ) from error
            raise FolderUnavailableError(
                unwritable_text(self.path, error), may_pass=error.errno in NO_ROOM
            ) from error
        if self.elsewhere is not None:
            self._require_writable(self.checkpoints)
        else:  # folders that are there may be another user's, or links to another disk
            for store in (self.checkpoints, self.best):
                if os.path.lexists(store.folder):
                    self._require_writable(store)

    def _require_writable(self, store: CheckpointStore) -> None:
        try:
            store.check_writable()
        except SaveFailedError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in NO_ROOM:
                is_here = self.elsewhere is None and os.stat(store.folder).st_dev == self._device
                text = unwritable_text(self.path, cause) if is_here else str(error)
                raise FolderUnavailableError(text, may_pass=True) from error
            raise ConfigError(str(error)) from error

    def require_same_checkpoints(self) -> None:
        """Refuse to train from the beginning where the run has checkpoints at another place.

        Called on the coordinator only, before run.json is written.

        Raises:
            ConfigError: It has, or that place does not answer.
        """
        described = self.description()
        former = described.get("checkpoints")
        if not described or former == self.elsewhere:
            return
        store = run_folder_at(self.path, former).checkpoints
        if store.steps():
            again = "leave --checkpoints out" if former is None else f"pass --checkpoints {former}"
            raise ConfigError(
                f"the run in {self.path} has its checkpoints in {store.folder}, and this start "
                f"looks in {self.checkpoints.folder}. To continue, {again}; to train from the "
                "beginning, choose another --run-dir."
            )

    @property
    def export_path(self) -> Path:
        """Where the plain safetensors file of the finished model goes."""
        return self.path / "export" / "model.safetensors"

    def write_run(self, description: Mapping[str, Any]) -> None:
        """Write run.json, what this run is made of. Called on the coordinator only."""
        self.described = description
        text = json.dumps(description, indent=2, default=str) + "\n"
        replace_text(self.path / "run.json", text)

    def update_run(self, description: Mapping[str, Any]) -> None:
        """Write run.json in the middle of a run, which does not depend on it."""
        try:
            self.write_run(description)
        except OSError as error:
            self.warn(f"{self.path / 'run.json'} cannot be written ({error.strerror}).")

    def description(self) -> dict[str, Any]:
        """Return the content of run.json; empty if there is none."""
        try:
            described = parse((self.path / "run.json").read_bytes())
        except OSError:
            return {}
        return {} if described is None else described

    def event(self, kind: str, **details: Any) -> None:
        """Append one line to events.jsonl, now or later. Called on the coordinator only."""
        self._events.append(event_of(kind, now=self._now(), **self.mask(details)))

    def events(self) -> list[dict[str, Any]]:
        """Return the events so far, oldest first."""
        return list(events_of(self.path))

    def recent_events(self) -> list[Record]:
        """Return the newest events, oldest first: a bounded part, however long the run is.

        Lines that are no events are reported.
        """
        try:
            found, skipped = newest(self.path / EVENTS, is_event, RECENT_BYTES)
        except OSError as error:
            self.warn(f"{self.path / EVENTS} cannot be read ({error.strerror}).")
            return []
        if skipped:
            self.warn(f"{skipped_text(str(self.path / EVENTS), skipped)}.")
        return found

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl, now or later. Called on the coordinator only."""
        self._metrics.append(record)

    def close(self) -> None:
        """Write the lines that wait, a last time. Called on the coordinator only."""
        self._events.close()
        self._metrics.close()

    def forget_metrics_after(self, step: int) -> LostWork:
        """Drop the records of steps that will be done again. Called on the coordinator only.

        Returns:
            What these steps had cost, as far as their records say.
        """
        return self._metrics.forget_after(step)

    def _line_file(self, name: str) -> LineFile:
        return LineFile(
            self.path / name,
            warn=lambda text: self.warn(text),
            remade=self._remade,
            is_ours=lambda: self.is_ours(),
        )

    def _remade(self) -> None:
        """Restore run.json after the folder was removed during a run."""
        if (self.path / "run.json").exists():
            return
        self.warn(self._removed_text())
        if self.described:
            with suppress(OSError):
                self.write_run(self.described)

    def _removed_text(self) -> str:
        removed = f"{self.path} was removed during the run; it is created again"
        with suppress(OSError):
            if self._device not in (None, self.path.stat().st_dev):
                return (
                    f"{removed}, on another file system than before. Was a disk unmounted? What is "
                    "saved from now on is hidden when it is mounted again: copy it before."
                )
        return f"{removed}."


def run_folder_at(path: Path, checkpoints: str | Path | None) -> RunFolder:
    """Return the run folder with its checkpoints in it, or at another folder or URL.

    Raises:
        ConfigError: The URL is none, what it needs is not installed, or it does not last.
    """
    if checkpoints is None:
        return RunFolder(path)
    text = str(checkpoints)
    if text.startswith("memory://"):
        raise ConfigError(f"{text} ends with the process, and its checkpoints with it.")
    try:
        place = place_at(text if is_url(text) else str(Path(text).absolute()))
    except PlaceError as error:
        raise ConfigError(str(error)) from error
    return RunFolder(path, place=place)


def checkpoints_elsewhere(path: Path) -> str | None:
    """Return where the checkpoints of a run are, as run.json says; None: in its folder."""
    described = RunFolder(path).description().get("checkpoints")
    return described if isinstance(described, str) else None
