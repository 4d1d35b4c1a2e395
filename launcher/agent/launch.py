"""One start of the command, from the plan to the exit code."""

import gc
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..contract.environment import default_environment
from ..contract.exit_codes import (
    CONTINUE,
    DONE,
    RankEnd,
    ended_by_handling,
    ended_by_warning,
    first_failure,
)
from ..contract.files.error_file import read_error
from ..contract.interrupted import Interrupted
from ..contract.launcher_signals import SignalInbox
from ..plan.launch_plan import LaunchPlan
from ..plan.program_source import spawn_line
from ..workers.forkserver.descriptors import open_descriptors
from ..workers.lifeline import Lifeline
from ..workers.starter import Starter
from .attempts.evidence import exception_of, without_launcher
from .attempts.failure_report import TAIL_LINES, failure_report
from .attempts.node_loss import newest_step
from .attempts.own_loop import (
    died_text,
    ended_with_0_text,
    left_text,
    lines_text,
    lost_text,
    spawn_text,
    without_run_text,
)
from .attempts.preemption import (
    followers_text,
    nothing_begun_text,
    unsaved_text,
)
from .attempts.result import AttemptEnd, words_of
from .cluster import PreemptionCause
from .output.console_policy import wants_logs


def launch(
    plan: LaunchPlan,
    inbox: SignalInbox,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    *,
    advice: PreemptionCause,
) -> int:
    """Start the ranks, wait for their end and return the exit code.

    When it returns, nothing that it started is left.

    Raises:
        UsageError: The ranks cannot meet where they were told to.
        Interrupted: The run was asked to leave before it had ranks.
    """
    starter = Starter(plan.program.command(environ), say, holds_interrupt=plan.starts_run)
    with closing(starter):
        if not plan.cold:
            _warm_up(starter, plan, inbox, environ)
        return _run_agent(starter, plan, inbox, environ, say, advice)


def _warm_up(
    starter: Starter, plan: LaunchPlan, inbox: SignalInbox, environ: Mapping[str, str]
) -> None:
    """Import torch, for this process and for all ranks, and fork the fork server."""
    at_import = {**default_environment(plan.local_world_size), **environ}
    os.environ.update(at_import)  # OMP_NUM_THREADS and its like are read at import
    open_before = open_descriptors()
    gc.disable()  # an import makes much that stays: looking for garbage costs a tenth of its time
    try:
        from . import node_agent as agent  # noqa: F401

        starter.warm_up(
            preload=plan.preload,
            uses_run=plan.uses_run,
            imports_compiler=will_import_compiler(plan),
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
    advice: PreemptionCause,
) -> int:
    # torch is imported here at the latest: it takes seconds.
    from .node_agent import NodeAgent

    if inbox.warned_by is not None:
        raise Interrupted(inbox.warned_by)
    inbox.ranks_start()
    if (text := no_time_text(plan)) is not None:
        say(text)
    asked = plan.run.of_the_model()
    if asked and not plan.uses_run and plan.nodes.node_rank in (0, None):
        say(without_run_text(plan.program.name, asked))
    spawns = None if plan.uses_run else spawn_line(plan.source.text)
    if spawns is not None and plan.nodes.node_rank in (0, None):
        say(spawn_text(plan.program.name, spawns))
    plan = with_logs(plan, say)
    with Lifeline.hold() as lifeline:
        agent = NodeAgent(
            plan,
            inbox=inbox,
            lifeline=lifeline,
            starter=starter,
            environ=environ,
            report=partial(report, plan=plan, inbox=inbox),
            advice=advice,
            say=say,
        )
        agent.run()
        starter.finish()
        return agent.code


def will_import_compiler(plan: LaunchPlan) -> bool:
    """Return whether the ranks will import torch's compiler, and may find it imported.

    A single rank needs none. What reads variables at its import must not do so before a script that
    sets them.
    """
    is_spread = plan.local_world_size > 1 or plan.nodes.several
    return plan.starts_run and is_spread and not plan.source.names_torch_variable()


def no_time_text(plan: LaunchPlan) -> str | None:
    """Return the warning about a --grace within which nothing can be saved; pure.

    On several nodes the first one says it for all; None: there is nothing to say.
    """
    if plan.grace_s is None or plan.grace_s > 0 or plan.nodes.node_rank not in (0, None):
        return None
    return (
        f"--grace {plan.grace_s:g} leaves no time to save: a preemption notice kills the ranks at "
        "once, and the run resumes from its newest checkpoint. Pass more seconds than a save "
        "takes, or leave it out: then the ranks take the time they need."
    )


def with_logs(plan: LaunchPlan, say: Callable[[str], None]) -> LaunchPlan:
    """Return the plan with a temporary folder for logs where -r or -t need one."""
    if plan.log_dir is not None or not wants_logs(plan.streams):
        return plan
    try:
        folder = Path(tempfile.mkdtemp(prefix="relaunch-logs-"))
    except OSError as error:
        say(f"warning: no logs are written: {error.strerror}. Pass --log-dir.")
        return plan
    say(f"the logs are in {folder}; choose another folder with --log-dir.")
    return replace(plan, log_dir=folder)


def report(end: AttemptEnd, *, plan: LaunchPlan, inbox: SignalInbox) -> tuple[int, str]:
    """Return an attempt's exit code, and what its end means to the person who started it.

    There is nothing to say where every rank has ended well.
    """
    first = first_failure(end.outcomes)
    if first is None or ended_by_warning(first, inbox.warned_by):
        return end.code, _without_failure(end, first, plan, inbox)
    record = read_error(end.files[first.rank].error)
    if record is not None and record.is_sentence:
        code = end.code if record.exit_code is None else record.exit_code
        return code, f"error: {record.message}"
    lines = without_launcher(end.output.tail(first.rank))
    text = failure_report(
        first,
        end.outcomes,
        record=record,
        log_path=end.output.log_path(first.rank),
        tail=() if end.output.was_shown_alone(first.rank) else lines[-TAIL_LINES:],
        exception=exception_of(end.output.errors(first.rank)),
        num_oom_kills=end.num_oom_kills,
        warned=inbox.warned_by is not None,
    )
    return end.code, text


def _without_failure(
    end: AttemptEnd, died: RankEnd | None, plan: LaunchPlan, inbox: SignalInbox
) -> str:
    """Return what there is to say where no rank has failed by itself, but by a notice at most."""
    if end.nothing_begun:
        return nothing_begun_text(end.outcomes)
    if end.code not in (DONE, CONTINUE) and inbox.warned_by is not None and plan.uses_run:
        step = end.step()
        newest = newest_step(plan.run.run_dir or end.run_dir(), plan.run.checkpoints)
        return unsaved_text(end.outcomes, step=step, newest=newest, grace_s=plan.grace_s)
    if not plan.uses_run and (text := _without_run(end, died, plan, inbox)):
        return text
    if died is not None and died.status is not None:
        return died_text(died.rank, -died.status)
    causes = {o.rank: words_of(end.files[o.rank], end.output, o.rank) for o in end.outcomes}
    return followers_text(end.outcomes, causes)


def _without_run(
    end: AttemptEnd, died: RankEnd | None, plan: LaunchPlan, inbox: SignalInbox
) -> str:
    """Return what a notice did to a script without `Run`, and what would save it."""
    if died is not None and died.status is not None:
        lost = lost_text(end.lived_s, end.step())
        return f"{died_text(died.rank, -died.status)} {lost} {lines_text(plan.source.modules())}"
    if inbox.warned_by is not None and ended_by_handling(end.outcomes):
        return f"{ended_with_0_text(inbox.warned_by)} {lines_text(plan.source.modules())}"
    if inbox.warned_by is not None and any(o.status == CONTINUE for o in end.outcomes):
        return left_text(inbox.warned_by)
    return ""
