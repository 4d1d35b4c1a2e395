"""One start of a loop that is not ours: its process, from the handlers to the exit code."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from checkpointing import CheckpointError
from strategies import ConfigError, Look, Ranks, shield_loader_workers
from strategies.errors import StrategyError

from ...contract.exit_codes import CONTINUE, DO_NOT_RETRY, USAGE
from ...contract.files.error_file import write_exception
from ...contract.files.heartbeat import listen_for_stacks
from ...contract.files.run_dir_file import tell_folder
from ...contract.preemption import PreemptionFlag
from ...contract.run_options import RunOptions
from ...run_folder.folder import run_folder_at
from ...run_folder.lock import FolderTakenError, FolderUnavailableError
from ..context import RunContext
from ..ending.before_first_step import BeforeFirstStep
from ..ending.mistakes import code_of_mistake
from ..ending.rank_end import end_well, leave, leave_unsaved, leaving_with_others, own_environment
from ..run_state import Preempted
from ..start.opening import open_run
from ..start.run_path import path_of_coordinator, run_path

_FAILURE = 1


class Start:
    """This process as a rank of a run. Made on the main thread, before the first step."""

    def __init__(self) -> None:
        """Take the notices from now on: until the first update one ends the process with 75."""
        self.environment = own_environment()
        listen_for_stacks(self.environment.stacks_file)
        warning_file = self.environment.warning_file
        self.flag = PreemptionFlag(warning_file, None if warning_file is None else os.getppid())
        self._stack = ExitStack()
        self._stack.enter_context(self.flag.install())
        without_save = partial(leave_unsaved, self.environment, self.flag)
        self.before_first_step = BeforeFirstStep(self.flag, without_save)
        self.before_first_step.begin()
        self._unshielded = shield_loader_workers()
        self._parting = leaving_with_others(self.environment, self.before_first_step)
        self._parting.__enter__()
        self._context: RunContext | None = None

    def context(
        self,
        ranks: Ranks,
        *,
        strategy: str,
        run_dir: str | Path | None = None,
        checkpoints: str | Path | None = None,
        seed: int = 0,
    ) -> RunContext:
        """Take the run folder; return what the parts of a run are given. Called on every rank.

        Args:
            ranks: of the script's process group.
            strategy: how the script spreads its model, such as "ddp".
            run_dir: the run folder, unless --run-dir is given; default: runs/<script's name>.
            checkpoints: a folder or a URL for checkpoints, unless --checkpoints is given.
            seed: written into run.json.

        Raises:
            ConfigError: the folder cannot be had, or the command line asks for something that the
                script's own loop decides.
        """
        asked = self.environment.run
        refuse_options_of_run(asked, strategy)
        environment = replace(self.environment, run=replace(asked, strategy=strategy))
        path = run_path(environment, run_dir)
        tell_folder(environment.folder_file, path)
        if asked.run_dir is None and run_dir is None:
            path = path_of_coordinator(path, environment, ranks)
        folder = run_folder_at(path, asked.checkpoints or checkpoints)
        self._context = context = open_run(
            environment,
            ranks,
            self.flag,
            folder=folder,
            seed=seed,
            own_loop=True,
            before_first_step=self.before_first_step,
        )
        if self._unshielded is not None:
            context.warn(self._unshielded)
        return context

    def leave_to_be_continued(self) -> NoReturn:
        """End this rank with 75: all is saved. Called on every rank, at the same step.

        Raises:
            Preempted: always.
        """
        end_well(self.environment, self.flag, self.before_first_step, CONTINUE)
        raise Preempted

    def close(self, error: BaseException | None) -> None:
        """Come to the end of the loop. The process ends here, where our own error ended the loop.

        Args:
            error: with which the loop was left; None: it is done, and the script continues.

        Raises:
            SystemExit: with the sentence reported, and code 2 for what was asked wrongly.
        """
        if isinstance(error, Preempted):
            return  # the signals stay ignored until the process is gone
        self.before_first_step.end()
        self._stack.close()
        if error is None:
            return
        lockstep = None if self._context is None else self._context.lockstep
        has_trained = lockstep is not None and lockstep.has_trained
        own = sentence_of(error, has_trained=has_trained)
        if own is not None:
            leave(self.environment.error_file, *own)
        if isinstance(error, Exception):
            where = "" if lockstep is None else lockstep.describe(error)
            write_exception(self.environment.error_file, error, where)
        self._parting.__exit__(type(error), error, error.__traceback__)


def refuse_options_of_run(asked: RunOptions, found: str) -> None:
    """Refuse what the command line asks of a model that the script has built already; pure.

    Raises:
        ConfigError: naming the options.
    """
    if asked.strategy not in (None, found):
        raise ConfigError(
            f"--strategy {asked.strategy} was given, and the script has its model as {found} "
            "already: in a loop of its own the script decides. Leave the option out, or change the "
            "script."
        )
    rest = replace(asked, strategy=None).of_the_model()
    if rest:
        raise ConfigError(
            f"{', '.join(rest)} was given, and the script trains in a loop of its own: it decides. "
            "Leave it out, or do it in the script, such as autocast for a precision."
        )


def sentence_of(error: BaseException, *, has_trained: bool = False) -> tuple[str, int] | None:
    """Return the sentence and the exit code of an error of ours; None: it is not ours. Pure."""
    if isinstance(error, FolderUnavailableError):
        return str(error), CONTINUE if error.may_pass else USAGE
    if isinstance(error, FolderTakenError):
        return str(error), DO_NOT_RETRY
    if isinstance(error, ConfigError):
        return str(error), code_of_mistake(has_trained=has_trained)
    return (str(error), _FAILURE) if isinstance(error, StrategyError | CheckpointError) else None


def look_of(flag: PreemptionFlag) -> Look:
    """Return what a rank that knows nothing of the time gives to a boundary."""
    return Look(asked=flag.requested)
