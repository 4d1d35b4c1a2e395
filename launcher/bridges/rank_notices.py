"""What a bridge needs of its rank: the preemption notice, the heartbeat, and the way out.

One per process. The signals are handled from the moment at which it is made, which is when the
script makes the bridge's object: before the model is loaded and the first step is compiled.
"""

from __future__ import annotations

import functools
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist

from strategies import ConfigError
from strategies.data.workers.worker_signals import shield_loader_workers

from ..contract.exit_codes import CONTINUE, USAGE
from ..contract.files.error_file import EXCEPTION
from ..contract.files.heartbeat import Heartbeat, listen_for_stacks
from ..contract.files.run_dir_file import tell_folder
from ..contract.preemption import PreemptionFlag
from ..contract.run_options import RunOptions
from ..training.ending.before_first_step import BeforeFirstStep
from ..training.ending.rank_end import end_well, leave, leave_unsaved, own_environment
from ..training.own_loop.adopted_ranks import adopted_ranks
from ..training.own_loop.agreement import Agreement
from ..training.rank_console import RankConsole


class RankNotices:
    """This rank under a framework's loop."""

    def __init__(self) -> None:
        self.environment = own_environment()
        if (sentence := refused_options_text(self.environment.run)) is not None:
            self.refuse(sentence)
        warning_file = self.environment.warning_file
        self.flag = PreemptionFlag(warning_file, None if warning_file is None else os.getppid())
        self.flag.install_until_exit()
        self.start = BeforeFirstStep(self.flag, partial(leave_unsaved, self.environment, self.flag))
        self.start.begin()
        self.console = RankConsole(is_heard=self.environment.rank == 0)
        if (unshielded := shield_loader_workers()) is not None:
            self.console.warn(unshielded)
        listen_for_stacks(self.environment.stacks_file)
        self.heartbeat = Heartbeat(self.environment.heartbeat_file)
        self.heartbeat.beat()
        self._agreement: Agreement | None = None

    @property
    def is_coordinator(self) -> bool:
        """Whether this is rank 0, which alone writes records."""
        return self.environment.rank == 0

    def agreement(self) -> Agreement:
        """Return where all ranks agree. The first call is made by every rank, at the same place."""
        if self._agreement is None:
            try:
                ranks = adopted_ranks(self.environment, torch.device("cpu"))
            except ConfigError as error:
                self.refuse(str(error))
            self._agreement = Agreement(ranks)
        return self._agreement

    def run_dir(self, of_framework: str | Path) -> Path:
        """Return --run-dir or the framework's own folder, and report it to the launcher."""
        path = (self.environment.run.run_dir or Path(of_framework)).absolute()
        tell_folder(self.environment.folder_file, path)
        return path

    def handle_signals_again(self) -> None:
        """Handle the notices' signals, where the framework has put its own handlers since."""
        self.flag.install_until_exit()

    def refuse(self, sentence: str) -> NoReturn:
        """End this rank with a sentence, before anything has begun. Code 2."""
        leave(self.environment.error_file, sentence, USAGE)

    def leave_with_nothing(self, sentence: str) -> NoReturn:
        """End this rank with a sentence and code 1: a notice came, and nothing could be saved."""
        self.start.end()
        leave(self.environment.error_file, sentence, EXCEPTION)

    def leave(self) -> NoReturn:
        """End this rank with 75; called on every rank, once all that it keeps is on the disk."""
        end_well(self.environment, self.flag, self.start, CONTINUE)
        if dist.is_initialized():
            with suppress(Exception):  # everything is saved, whatever a peer does meanwhile
                dist.destroy_process_group()
        sys.exit(CONTINUE)


@functools.cache
def this_rank() -> RankNotices:
    """Return this process's own. Called on the main thread."""
    return RankNotices()


def refused_options_text(asked: RunOptions) -> str | None:
    """Return why what the command line asks for is refused: the framework decides it; pure."""
    elsewhere = () if asked.checkpoints is None else (f"--checkpoints {asked.checkpoints}",)
    given = (*asked.of_the_model(), *elsewhere)
    if not given:
        return None
    return (
        f"{', '.join(given)} was given, and the script's Trainer decides that itself. Leave it "
        "out, or set it in the arguments of the Trainer."
    )
