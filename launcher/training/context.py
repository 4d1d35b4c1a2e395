"""`RunContext`: what every part of a run is given; no part sees the `Run` that a script holds."""

from __future__ import annotations

import atexit
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from checkpointing import JSON
from strategies import ConfigError, HostCommunicator, Precision, Ranks, precision_for

from ..contract.environment import RankEnvironment
from ..contract.files.end_time import EndTime, end_time_file
from ..contract.files.error_file import write_error
from ..contract.files.heartbeat import Heartbeat
from ..contract.masking import ARGUMENTS, mask_description, mask_text, secrets_in, secrets_of
from ..contract.own_command import own_version
from ..contract.preemption import PreemptionFlag
from ..run_folder.attempt_number import next_number
from ..run_folder.folder import RunFolder, unwritable_text
from ..run_folder.lines.fields import Record
from ..run_folder.lock import FolderLock, FolderUnavailableError
from ..run_folder.plain_files import NO_ROOM
from .ending.before_first_step import BeforeFirstStep
from .ending.mistakes import code_of_mistake
from .exact import conditions, use_one_thread
from .heap import keep_freed_memory
from .lockstep import Lockstep
from .rank_console import RankConsole


@dataclass(frozen=True, kw_only=True)
class RankPlacement:
    """Where a rank runs."""

    host: str
    device: str
    """As a person says it: "cpu", "NVIDIA H100 (cuda:3)"."""


class RunContext:
    """One start of a training script on one rank: its place, its folder and its settings."""

    def __init__(
        self,
        environment: RankEnvironment,
        ranks: Ranks,
        preemption: PreemptionFlag,
        *,
        folder: RunFolder,
        seed: int,
        exact: bool = False,
        clock: Callable[[], float] = time.monotonic,
        before_first_step: BeforeFirstStep | None = None,
    ) -> None:
        """Called on every rank.

        Raises:
            ConfigError: the folder cannot be written, or precision or strategy do not suit.
        """
        self.environment = environment
        self.ranks = ranks
        self.preemption = preemption
        file = environment.warning_file
        self.end_time = EndTime(environment.end_time_s, file and end_time_file(file))
        """When the job's time is over."""
        self.before_first_step = before_first_step or BeforeFirstStep(preemption)
        """Lets a notice end this rank at once, until it has something to save."""
        self.heartbeat = Heartbeat(environment.heartbeat_file)
        self.heartbeat.beat()
        self.folder = folder
        self.console = RankConsole(is_heard=ranks.is_coordinator)
        self.seed = seed
        self.exact = exact or environment.run.exact
        """Whether no bit may depend on the number of ranks."""
        if self.exact and not environment.has_threads:
            use_one_thread()
        if ranks.device.type == "cpu" and not environment.tunes_malloc:
            keep_freed_memory()
        self.clock = clock
        self.communicator = HostCommunicator(ranks)
        self.lockstep = Lockstep(ranks, end_process=self._end_process)
        self.strategy = environment.run.strategy or ("single" if ranks.world_size == 1 else "auto")
        """Its name; "auto" until `settle_strategy` has chosen one, once, in `run.prepare`."""
        self.precision: Precision = precision_for(
            environment.run.precision or "fp32",
            "cuda" if environment.planned is not None else ranks.device.type,
        )
        self.settings: JSON = {}
        """What `run.config` has returned; not masked."""
        self.past_events: list[Record] = []
        """On the coordinator the newest events of the run's earlier starts, oldest first."""
        self.attempt = self._open_folder()
        """Number of this start of the run, from 1; higher than that of any start before."""

    @property
    def device(self) -> torch.device:
        """This rank's device, to which batches are moved."""
        return self.ranks.device

    def say(self, sentence: str) -> None:
        """Print a line on the coordinator."""
        self.console.say(sentence)

    def warn(self, sentence: str) -> None:
        """Print a warning on the coordinator's standard error."""
        self.console.warn(sentence)

    def warn_of_rank(self, sentence: str) -> None:
        """Print a warning about this rank alone, whichever it is."""
        with suppress(OSError):  # into a file on a full disk, or nobody reads it any more
            text = f"relaunch: warning: rank {self.ranks.rank}: {sentence}"
            print(text, file=sys.stderr, flush=True)

    @property
    def is_first_start_of_launcher(self) -> bool:
        """Whether the launcher's own start belongs to this one's."""
        return self.environment.launched and self.environment.restart_count == 0

    def places(self) -> list[RankPlacement]:
        """Return where every rank runs, in rank order. Called on every rank."""
        device = self.ranks.device
        name = f"{torch.cuda.get_device_name(device)} ({device})" if device.type == "cuda" else ""
        mine: JSON = {"host": platform.node(), "device": name or str(device)}
        everyone: list[Any] = self.communicator.all_gather(mine)
        return [RankPlacement(**one) for one in everyone]

    def describe(self) -> str:
        """Say where and how this start runs."""
        ranks = self.ranks
        count = "1 rank" if ranks.world_size == 1 else f"{ranks.world_size} ranks"
        return f"{self.strategy} on {count} ({ranks.device.type}), {self.precision.name}"

    def created_by(self) -> dict[str, JSON]:
        """Return what every checkpoint says of its maker."""
        return {
            "relaunch": own_version("unknown"),
            "torch": torch.__version__,
            "strategy": self.strategy,
            "world_size": self.ranks.world_size,
            "precision": self.precision.name,
            "attempt": self.attempt,
            **self.exact_conditions(),
        }

    def exact_conditions(self) -> dict[str, JSON]:
        """Return what the bits of an exact run depend on besides the run; of any other nothing."""
        return conditions(self.device) if self.exact else {}

    def _end_process(self, sentence: str) -> None:
        """End a rank that has left its loop and runs on alone; called in a thread."""
        code = code_of_mistake(has_trained=self.has_trained)
        if not write_error(self.environment.error_file, sentence, exit_code=code):
            print(f"relaunch: error: {sentence}", file=sys.stderr, flush=True)
        os._exit(code)

    def _open_folder(self) -> int:
        """Make the run folder; every rank hears whether it worked. Called on every rank.

        Raises:
            FolderUnavailableError: another run is in it, or there is no room.
            ConfigError: it cannot be written, or the checkpoints are elsewhere.
        """
        answer: JSON = None
        if self.ranks.is_coordinator:
            try:
                answer = {"attempt": self._take_folder()}
            except FolderUnavailableError as error:
                answer = {"error": str(error), "may_pass": error.may_pass}
            except (ConfigError, OSError) as error:
                answer = {"error": str(error)}
        found: Any = self.communicator.broadcast(answer)
        if "may_pass" in found:
            raise FolderUnavailableError(found["error"], may_pass=found["may_pass"])
        if "error" in found:
            raise ConfigError(found["error"])
        return int(found["attempt"])

    def _take_folder(self) -> int:
        """Make the run folder this start's own; return the start's number. On the coordinator.

        Raises:
            FolderUnavailableError: another run is in it, or there is no room.
            ConfigError: it cannot be written, or the checkpoints are elsewhere.
            OSError: from the file system.
        """
        folder = self.folder
        folder.warn = self.warn
        try:
            folder.create()
            lock = FolderLock.take(folder.path, warn=self.warn, sleep=self._sleep)
            folder.is_ours = lock.is_ours
            folder.mask = lambda details: mask_description(details, self._secrets())
            folder.require_same_checkpoints()
            self.past_events = folder.recent_events()
            number = max(next_number(folder.path), self.environment.attempt)
            folder.write_run(self._describe_run(number))
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
        return number

    def _with_what_is_there(self, error: FolderUnavailableError) -> FolderUnavailableError:
        """Return the error; the same command is worth another try where it has a checkpoint."""
        steps = self.folder.checkpoints.steps() if error.may_pass else []
        if not steps:
            return FolderUnavailableError(str(error), may_pass=False)
        return FolderUnavailableError(
            f"{error} Later the same command resumes from step {steps[0]}.", may_pass=True
        )

    def _sleep(self, seconds: float) -> None:
        """Wait for the folder; that is no hang."""
        time.sleep(seconds)
        self.heartbeat.beat()

    def _describe_run(self, attempt: int, **more: JSON) -> dict[str, Any]:
        """Return what this run is made of, without secrets: run.json, and what trackers show."""
        description = {
            "script": str(Path(sys.argv[0]).resolve()),
            "arguments": sys.argv[1:],
            "attempt": attempt,
            "checkpoints": self.folder.elsewhere,
            "seed": self.seed,
            "strategy": self.strategy,
            "precision": self.precision.name,
            "world_size": self.ranks.world_size,
            "device": self.ranks.device.type,
            "versions": {
                "relaunch": own_version("unknown"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "git_commit": _git_commit(Path(sys.argv[0]).resolve().parent),
            **more,
        }
        return mask_description(description, secrets_of(os.environ))

    def masked(self, text: str) -> str:
        """Return a text, such as an exception's, without the secrets that are known here."""
        return mask_text(text, self._secrets())

    def _secrets(self) -> tuple[str, ...]:
        settings = {ARGUMENTS: sys.argv[1:], "config": self.settings}
        return secrets_in(settings, secrets_of(os.environ))

    @property
    def has_trained(self) -> bool:
        """Whether this start has completed a step."""
        return False


def _git_commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
