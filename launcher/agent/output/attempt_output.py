"""Where the output of one attempt goes: which ranks to the console, and the folder of its logs."""

import socket
from collections.abc import Callable, Mapping

from ...plan.launch_plan import LaunchPlan
from ...run_folder.attempt_number import next_number
from .console_policy import PREFIX_TEMPLATE, STDERR, STDOUT, shares
from .log_folder import LogFolder
from .rank_output import RankOutput


def open_output(
    plan: LaunchPlan,
    *,
    group_rank: int,
    ranks: Mapping[int, int],
    environ: Mapping[str, str],
    say: Callable[[str], None],
) -> tuple[RankOutput, int | None]:
    """Return the output of an attempt, and its number in the run's folder.

    The number is None where the folder is left to the script.

    Args:
        plan: Of the start.
        group_rank: This node's number.
        ranks: From each rank of this node to its local rank.
        environ: The launcher's environment.
        say: Prints a sentence.
    """
    log_dir = plan.log_dir
    if log_dir is not None and plan.nodes.several:
        # A folder that the nodes share: each one numbers its attempts by itself.
        log_dir = log_dir / f"node-{group_rank}"
    number = next_number(plan.run.run_dir)
    logs = None if log_dir is None else LogFolder.create(log_dir, say, at_least=number)
    of_run = None
    if plan.run.run_dir is not None:
        is_in_run = logs is not None and logs.path.is_relative_to(plan.run.run_dir)
        of_run = logs.number if logs is not None and is_in_run else number
    share = shares(
        plan.streams,
        ranks=ranks,
        role=plan.role,
        has_logs=logs is not None,
        hostname=socket.gethostname().partition(".")[0],
        template=environ.get(PREFIX_TEMPLATE),
    )
    filters = {STDOUT: plan.streams.stdout_filters, STDERR: plan.streams.stderr_filters}
    return RankOutput(share, logs, {k: texts for k, texts in filters.items() if texts}), of_run
