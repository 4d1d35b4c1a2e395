"""Where a start of a run begins on a rank: its folder is taken, and its parts get their context."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from checkpointing import JSON
from strategies import HostCommunicator, Precision, Ranks, precision_for

from ...contract.environment import RankEnvironment
from ...contract.files.end_time import EndTime, end_time_file
from ...contract.files.heartbeat import Heartbeat
from ...contract.masking import Masks
from ...contract.preemption import PreemptionFlag
from ...run_folder.folder import RunFolder
from ..context import RunContext
from ..ending.before_first_step import BeforeFirstStep
from ..ending.rank_end import end_alone
from ..exact import use_one_thread
from ..lockstep import Lockstep
from ..rank_console import RankConsole
from .description import describe_run
from .heap import keep_freed_memory
from .taking import FolderTaking

SCRIPTS_OWN = "as the script has it"


def open_run(
    environment: RankEnvironment,
    ranks: Ranks,
    preemption: PreemptionFlag,
    *,
    folder: RunFolder,
    seed: int,
    exact: bool = False,
    own_loop: bool = False,
    clock: Callable[[], float] = time.monotonic,
    before_first_step: BeforeFirstStep | None = None,
    console: RankConsole | None = None,
) -> RunContext:
    """Take the run folder, and return what every part of the run is given. Called on every rank.

    Args:
        environment: of this rank.
        ranks: all of the run.
        preemption: takes this rank's notices.
        folder: of the run.
        seed: of all random numbers.
        exact: whether no bit may depend on the number of ranks, as with --exact.
        own_loop: whether the script trains in a loop of its own, in a precision that it knows.
        clock: in seconds.
        before_first_step: ends this rank at a notice; None: nothing does.
        console: None: the coordinator's is printed.

    Raises:
        ConfigError: the folder cannot be written, or precision or strategy do not suit.
        FolderUnavailableError: another run is in the folder, or there is no room.
    """
    heartbeat = Heartbeat(environment.heartbeat_file)
    heartbeat.beat()
    exact = exact or environment.run.exact
    _settle_process(environment, ranks, exact=exact)
    strategy = environment.run.strategy or ("single" if ranks.world_size == 1 else "auto")
    precision = _precision(environment, ranks, own_loop=own_loop)
    console = console or RankConsole(is_heard=ranks.is_coordinator)
    communicator, masks = HostCommunicator(ranks), Masks()
    folder.warn, folder.mask = console.warn, masks.description
    loop = SCRIPTS_OWN if own_loop else None

    def describe(attempt: int) -> dict[str, JSON]:
        names = {"strategy": strategy, "precision": precision.name}
        described = describe_run(attempt, ranks, seed, folder.elsewhere, **names, loop=loop)
        return masks.description(described)

    taking = FolderTaking(folder, heartbeat, describe, environment.array_variable)
    attempt, past_events = taking.take(communicator, at_least=environment.attempt)
    return RunContext(
        environment=environment,
        ranks=ranks,
        preemption=preemption,
        before_first_step=before_first_step or BeforeFirstStep(preemption),
        end_time=_end_time(environment),
        heartbeat=heartbeat,
        lockstep=Lockstep(ranks, partial(end_alone, environment.error_file)),
        communicator=communicator,
        console=console,
        masks=masks,
        clock=clock,
        folder=folder,
        attempt=attempt,
        past_events=past_events,
        seed=seed,
        exact=exact,
        asked_strategy=strategy,
        precision=precision,
    )


def _settle_process(environment: RankEnvironment, ranks: Ranks, *, exact: bool) -> None:
    """Set what concerns the whole process: its threads, and what it does with freed memory."""
    if exact and not environment.has_threads:
        use_one_thread()
    if ranks.device.type == "cpu" and not environment.tunes_malloc:
        keep_freed_memory()


def _end_time(environment: RankEnvironment) -> EndTime:
    file = environment.warning_file
    return EndTime(environment.end_time_s, file and end_time_file(file))


def _precision(environment: RankEnvironment, ranks: Ranks, *, own_loop: bool) -> Precision:
    on = "cuda" if environment.planned is not None else ranks.device.type
    found = precision_for(environment.run.precision or "fp32", on)
    return replace(found, name=SCRIPTS_OWN) if own_loop else found
