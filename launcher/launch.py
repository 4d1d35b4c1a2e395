"""One start of the command, from the plan to the exit code."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from .descriptors import open_descriptors
from .environment import default_environment
from .error_file import read_error
from .exit_codes import ended_by_warning, first_failure
from .lifeline import Lifeline
from .output import last_lines
from .plan import LaunchPlan
from .python_command import python_command
from .report import TAIL_LINES, failure_report
from .signal_inbox import SignalInbox
from .signals import signal_name
from .starter import Starter

if TYPE_CHECKING:
    from .agent import AttemptEnd


def launch(
    plan: LaunchPlan,
    inbox: SignalInbox,
    environ: Mapping[str, str],
    say: Callable[[str], None],
) -> int:
    """Start the ranks, wait for their end and return the exit code.

    When it returns, nothing that it started is left.

    Raises:
        UsageError: The ranks cannot meet where they were told to.
    """
    starter = Starter(python_command(sys.executable, plan.script, plan.script_args), say)
    with closing(starter):
        if not plan.cold:
            _warm_up(starter, plan, inbox, environ)
        return _run_agent(starter, plan, inbox, environ, say)


def _warm_up(
    starter: Starter, plan: LaunchPlan, inbox: SignalInbox, environ: Mapping[str, str]
) -> None:
    """Import torch, for this process and for all ranks, and fork the warm server."""
    at_import = {**default_environment(plan.local_world_size), **environ}
    os.environ.update(at_import)  # OMP_NUM_THREADS and its like are read at import
    open_before = open_descriptors()
    gc.disable()  # an import makes much that stays: looking for garbage costs a tenth of its time
    try:
        from . import agent  # noqa: F401

        starter.warm_up(
            preload=plan.preload,
            uses_run=plan.uses_run,
            at_import=at_import,
            opened=frozenset(open_descriptors().keys() - open_before.keys()),
            given_up=lambda: inbox.warned_by is not None,
        )
    finally:
        gc.freeze()  # nor shall the first collection look through all of it
        gc.enable()


def _run_agent(
    starter: Starter,
    plan: LaunchPlan,
    inbox: SignalInbox,
    environ: Mapping[str, str],
    say: Callable[[str], None],
) -> int:
    # torch is imported here at the latest: it takes seconds.
    from .agent import NodeAgent

    if inbox.warned_by is not None:
        say(f"{signal_name(inbox.warned_by)} came before the ranks were started; leaving.")
        return 128 + inbox.warned_by
    inbox.ranks_start()
    with Lifeline.hold() as lifeline:
        agent = NodeAgent(
            plan,
            inbox=inbox,
            lifeline=lifeline,
            starter=starter,
            environ=environ,
            report=partial(report, inbox=inbox, say=say),
            say=say,
        )
        agent.run()
        return agent.code


def report(end: "AttemptEnd", *, inbox: SignalInbox, say: Callable[[str], None]) -> int:
    """Say what an attempt's end means to the person who started it; return its exit code.

    Says nothing where no rank failed by itself.
    """
    first = first_failure(end.outcomes)
    if first is None:
        return end.code
    if ended_by_warning(first, inbox.warned_by):
        name = signal_name(signal.SIGTERM)
        say(f"rank {first.rank} ended on {name}: nothing in the script handles it.")
        return end.code
    record = read_error(end.error_files[first.rank])
    if record is not None and record.is_sentence:
        say(f"error: {record.message}")
        return end.code if record.exit_code is None else record.exit_code
    log_path = end.output.log_path(first.rank)
    tail = last_lines(log_path, TAIL_LINES) if log_path is not None else []
    say(failure_report(first, end.outcomes, record=record, log_path=log_path, tail=tail))
    return end.code
