"""How a start takes the run folder: the coordinator does, and every rank hears whether it could."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Mapping
from typing import Any

from checkpointing import JSON
from strategies import ConfigError, HostCommunicator

from ...contract.files.heartbeat import Heartbeat
from ...run_folder.attempt_number import next_number
from ...run_folder.folder import RunFolder, unwritable_text
from ...run_folder.lines.fields import Record
from ...run_folder.lock import FolderLock, FolderUnavailableError
from ...run_folder.plain_files import NO_ROOM


class FolderTaking:
    """Makes a run folder, or one that is there, this start's own.

    Args:
        folder: to be taken.
        heartbeat: beats while another run's end is waited for, which is no hang.
        describe: returns run.json for the number of an attempt.
        array_variable: numbers the elements of a job array; None: this is no element of one.
    """

    def __init__(
        self,
        folder: RunFolder,
        heartbeat: Heartbeat,
        describe: Callable[[int], Mapping[str, Any]],
        array_variable: str | None = None,
    ) -> None:
        self._folder = folder
        self._heartbeat = heartbeat
        self._describe = describe
        self._array_variable = array_variable

    def take(
        self, communicator: HostCommunicator, *, at_least: int
    ) -> tuple[int, tuple[Record, ...]]:
        """Take it. Called on every rank.

        Returns:
            This start's number, `at_least` that; and on the coordinator the newest events that the
            folder had.

        Raises:
            FolderUnavailableError: another run is in it, or there is no room.
            ConfigError: it cannot be written, or the checkpoints are elsewhere.
        """
        answer: JSON = None
        past_events: tuple[Record, ...] = ()
        if communicator.rank == 0:
            try:
                number, past_events = self._take(at_least)
                answer = {"attempt": number}
            except FolderUnavailableError as error:
                answer = {"error": str(error), "may_pass": error.may_pass}
            except (ConfigError, OSError) as error:
                answer = {"error": str(error)}
        found: Any = communicator.broadcast(answer)
        if "may_pass" in found:
            raise FolderUnavailableError(found["error"], may_pass=found["may_pass"])
        if "error" in found:
            raise ConfigError(found["error"])
        return int(found["attempt"]), past_events

    def _take(self, at_least: int) -> tuple[int, tuple[Record, ...]]:
        folder = self._folder
        try:
            folder.create()
            lock = self._take_lock()
            folder.is_ours = lock.is_ours
            folder.require_same_checkpoints()
            past_events = tuple(folder.recent_events())
            number = max(next_number(folder.path), at_least)
            folder.write_run(self._describe(number))
        except FolderUnavailableError as error:
            raise self._with_what_is_there(error) from error
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            busy = FolderUnavailableError(unwritable_text(folder.path, error), may_pass=True)
            raise self._with_what_is_there(busy) from error
        atexit.register(folder.close)
        for store in (folder.checkpoints, folder.best):
            store.publishing.before_publish = lock.require_held
        return number, past_events

    def _take_lock(self) -> FolderLock:
        folder = self._folder
        try:
            return FolderLock.take(folder.path, warn=folder.warn, sleep=self._sleep)
        except FolderUnavailableError as error:
            if self._array_variable is None:
                raise
            raise FolderUnavailableError(
                f"{error} This is an element of a job array, whose elements need a folder each: "
                f"--run-dir {folder.path}/${self._array_variable}",
                may_pass=error.may_pass,
            ) from error

    def _with_what_is_there(self, error: FolderUnavailableError) -> FolderUnavailableError:
        """Return the error; the same command is worth another try where it has a checkpoint."""
        steps = self._folder.checkpoints.steps() if error.may_pass else []
        if not steps:
            return FolderUnavailableError(str(error), may_pass=False)
        return FolderUnavailableError(
            f"{error} Later the same command resumes from step {steps[0]}.", may_pass=True
        )

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self._heartbeat.beat()
