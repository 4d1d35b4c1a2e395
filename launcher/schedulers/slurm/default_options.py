"""From a job to the options that a person would otherwise have to give on each node; pure."""

from dataclasses import replace

from ...errors import ToldElsewhere, UsageError
from ...plan import option_types as values
from ...plan.given_options import Given, Words
from .allocation import Allocation, Role
from .job_layout import check_layout, check_nodes


def is_last_word(words: Words, allocation: Allocation) -> bool:
    """Return whether a process whose words say how the nodes meet may requeue the job at its end.

    It may where the job has nothing else to do: it is the batch script, or the first task of a step
    on all nodes. What is started beside others, each by itself, must not end them.
    """
    if not allocation.in_step:
        return False
    if allocation.role is Role.BATCH:
        return allocation.is_script
    is_first = allocation.role is Role.TASK and allocation.task == 0
    return is_first and allocation.is_whole_job and "--standalone" not in words.given


def check(words: Words, allocation: Allocation) -> None:
    """See whether the job suits the words; raises UsageError, said by the step's first task."""
    try:
        check_layout(allocation)
        if (nnodes := words.given.get("--nnodes")) is not None:
            check_nodes(allocation, *values.nnodes(nnodes), spelled=nnodes.spelled)
    except UsageError as error:
        raise error if allocation.task == 0 else ToldElsewhere(*error.args) from None


def with_job(words: Words, allocation: Allocation, *, addr: str, port: int) -> Words:
    """Return the words with those of the job; what was given stays.

    Args:
        words: As given.
        allocation: The job.
        addr: Where the nodes meet; without meaning for one node.
        port: The port there.
    """
    more = {"--rdzv-id": allocation.run_id}
    if len(allocation.nodes) > 1:
        more |= {
            "--nnodes": str(len(allocation.nodes)),
            "--node-rank": str(allocation.node_rank),
            "--master-addr": addr,
            "--master-port": str(port),
        }
    added = {
        name: Given(text=text, spelled=f"{name} {text} (of Slurm job {allocation.key})")
        for name, text in more.items()
        if name not in words.given
    }
    kept = {name: option for name, option in words.given.items() if name != "--container"}
    return replace(words, given={**kept, **added})
