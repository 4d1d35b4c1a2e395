"""What a start does with its process: its thread, its signals, its process groups."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from strategies import ConfigError, Ranks, StrategyError, process_groups

from ...contract.environment import RankEnvironment
from ...contract.exit_codes import USAGE
from ...contract.preemption import PreemptionFlag
from ..ending.before_first_step import BeforeFirstStep
from ..ending.rank_end import leave, leave_unsaved

_FAILURE = 1


@contextmanager
def groups_of(environment: RankEnvironment) -> Iterator[Ranks]:
    """Meet the other ranks, or leave where this one has no device."""
    groups = process_groups(
        rank=environment.rank,
        local_rank=environment.local_rank,
        world_size=environment.world_size,
        node_rank=environment.node_rank,
        cuda_backend=environment.cuda_backend,
    )
    with ExitStack() as stack:
        try:
            ranks = stack.enter_context(groups)
        except ConfigError as error:
            leave(environment.error_file, str(error), USAGE)
        except StrategyError as error:
            leave(environment.error_file, str(error), _FAILURE)
        yield ranks


def require_main_thread() -> None:
    """Refuse a thread, where no signal can be handled; a worker of Ray Train is one.

    Raises:
        ConfigError: this is one.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError(
            "Run.start was called in a thread, where no preemption notice arrives (Ray Train calls "
            "its training function in one). Under Ray Train give the trainer "
            'launcher.bridges.RelaunchTrainLoop("train.py") as its training function; elsewhere '
            "start the script as a process of its own, for example with "
            'subprocess.run(["relaunch", "train.py"]).'
        )


def listen_for_notices(environment: RankEnvironment) -> tuple[PreemptionFlag, BeforeFirstStep]:
    """Install the handlers of preemption notices, which end the rank until the first step."""
    launcher = None if environment.warning_file is None else os.getppid()
    flag = PreemptionFlag(environment.warning_file, launcher)
    flag.install_until_exit()
    start = BeforeFirstStep(flag, partial(leave_unsaved, environment, flag))
    start.begin()
    if launcher is not None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))  # held since the start
    return flag, start
