"""`RunContext`: what every part of a run is given; no part sees the `Run` that a script holds."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from checkpointing import JSON
from strategies import HostCommunicator, Precision, Ranks

from ..contract.environment import RankEnvironment
from ..contract.files.end_time import EndTime
from ..contract.files.heartbeat import Heartbeat
from ..contract.masking import Masks
from ..contract.own_command import own_version
from ..contract.preemption import PreemptionFlag
from ..run_folder.folder import RunFolder
from ..run_folder.lines.fields import Record
from .ending.before_first_step import BeforeFirstStep
from .exact import conditions
from .lockstep import Lockstep
from .rank_console import RankConsole


@dataclass(frozen=True, kw_only=True)
class RankPlacement:
    """Where a rank runs."""

    host: str
    device: str
    """As a person says it: "cpu", "NVIDIA H100 (cuda:3)"."""


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """One start of a training script on one rank; `start.opening.open_run` makes it.

    What changes in the course of a start are parts that it refers to: the lockstep, the console,
    the flag of a notice.
    """

    environment: RankEnvironment
    ranks: Ranks
    preemption: PreemptionFlag
    before_first_step: BeforeFirstStep
    """Lets a notice end this rank at once, until it has something to save."""
    end_time: EndTime
    """When the job's time is over."""
    heartbeat: Heartbeat
    lockstep: Lockstep
    communicator: HostCommunicator
    console: RankConsole
    masks: Masks
    clock: Callable[[], float] = time.monotonic
    folder: RunFolder
    attempt: int
    """Number of this start of the run, from 1; higher than that of any start before."""
    past_events: Sequence[Record]
    """On the coordinator the newest events of the run's earlier starts, oldest first."""
    seed: int
    exact: bool
    """Whether no bit may depend on the number of ranks."""
    asked_strategy: str
    """A strategy's name, or "auto"; the job then settles on one."""
    precision: Precision

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

    def describe(self, strategy: str) -> str:
        """Say where and how this start runs, under the strategy that it has."""
        ranks = self.ranks
        count = "1 rank" if ranks.world_size == 1 else f"{ranks.world_size} ranks"
        return f"{strategy} on {count} ({ranks.device.type}), {self.precision.name}"

    def created_by(self, strategy: str) -> dict[str, JSON]:
        """Return what every checkpoint says of its maker, under the strategy that it has."""
        return {
            "relaunch": own_version("unknown"),
            "torch": torch.__version__,
            "strategy": strategy,
            "world_size": self.ranks.world_size,
            "precision": self.precision.name,
            "attempt": self.attempt,
            **self.exact_conditions(),
        }

    def exact_conditions(self) -> dict[str, JSON]:
        """Return what the bits of an exact run depend on besides the run; of any other nothing."""
        return conditions(self.device) if self.exact else {}
