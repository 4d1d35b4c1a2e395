"""The run folder: what a person reads, and where the checkpoints are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from checkpointing import CheckpointStore, Place, PlaceError, SaveFailedError, is_url, place_at
from checkpointing.storage.local_files import LOCAL_FILES
from strategies import ConfigError

from .jsonl import EVENTS, METRICS, append_event, append_record, records


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

    def create(self) -> None:
        """Make the folder and prove that it can be written. Called on the coordinator only.

        Raises:
            ConfigError: it cannot.
        """
        probe = self.path / f".writable-{os.getpid()}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"the run folder {self.path} cannot be written: {error.strerror}. "
                "Choose another with --run-dir."
            ) from error
        if self.elsewhere is not None:
            try:
                self.checkpoints.check_writable()
            except SaveFailedError as error:
                raise ConfigError(str(error)) from error

    def require_same_checkpoints(self) -> None:
        """Refuse to train anew where the run has checkpoints at another place.

        Called on the coordinator only, before run.json is written.

        Raises:
            ConfigError: It has, or that place does not answer.
        """
        told = self.description()
        former = told.get("checkpoints")
        if not told or former == self.elsewhere:
            return
        store = run_folder_at(self.path, former).checkpoints
        if store.steps():
            again = "leave --checkpoints out" if former is None else f"pass --checkpoints {former}"
            raise ConfigError(
                f"the run in {self.path} has its checkpoints in {store.folder}, and this start "
                f"looks in {self.checkpoints.folder}. To continue, {again}; to train anew, choose "
                "another --run-dir."
            )

    @property
    def export_path(self) -> Path:
        """Where the plain safetensors file of the finished model goes."""
        return self.path / "export" / "model.safetensors"

    def write_run(self, description: Mapping[str, Any]) -> None:
        """Write run.json, what this run is made of. Called on the coordinator only."""
        _replace(self.path / "run.json", json.dumps(description, indent=2, default=str) + "\n")

    def description(self) -> dict[str, Any]:
        """Return what run.json says; nothing where it is not there."""
        try:
            told: dict[str, Any] = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return told

    def event(self, kind: str, **details: Any) -> None:
        """Append one line to events.jsonl. Called on the coordinator only."""
        append_event(self.path, kind, now=self._now(), **details)

    def events(self) -> list[dict[str, Any]]:
        """Return the events so far, oldest first."""
        return list(records(self.path / EVENTS))

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl. Called on the coordinator only."""
        append_record(self.path / METRICS, record)

    def metrics_records(self) -> list[dict[str, Any]]:
        """Return the records so far, oldest first."""
        return list(records(self.path / METRICS))

    def forget_metrics_after(self, step: int) -> None:
        """Drop the records of steps that will be done again. Called on the coordinator only."""
        path = self.path / METRICS
        kept = [record for record in records(path) if record["step"] <= step]
        if path.exists():
            _replace(path, "".join(json.dumps(record) + "\n" for record in kept))


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
    told = RunFolder(path).description().get("checkpoints")
    return told if isinstance(told, str) else None


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
