"""What happened to the job, and whether it goes back into the queue: pure functions.

Measured on Slurm 22.05: a job that ends within its grace is not requeued by Slurm, whatever its
exit code; and Slurm would requeue a job that a person has just cancelled, if it were asked to.
"""

import enum
from dataclasses import dataclass

from ...contract.exit_codes import CONTINUE, DONE
from .job_info import JobFacts


class Cause(enum.StrEnum):
    """Why the ranks have exited, for messages."""

    DONE = "done"
    FAILED = "failed"
    PREEMPTED = "preempted"
    TIME_LIMIT = "time limit"
    ASKED = "preemption notice"
    """By a signal of `--signal`, or by the run itself before its time was over."""
    CANCELLED = "cancelled"
    REQUEUED = "requeued by Slurm"
    """Without a grace period, after a lost node, or by a person's `scontrol requeue`."""
    UNKNOWN = "unknown"
    """Slurm gave no answer."""


class RequeueAction(enum.Enum):
    """What this process does about it."""

    LEAVE = enum.auto()
    """Nothing: the exit code is the whole answer."""
    REQUEUE = enum.auto()
    ASK_AGAIN = enum.auto()
    TELL = enum.auto()
    """Leave, and print how a person resumes: Slurm does not requeue this job."""


@dataclass(frozen=True, kw_only=True)
class RequeueDecision:
    """What happened and what follows."""

    cause: Cause
    action: RequeueAction
    code: int
    """To leave with."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What the process that outlives the ranks knows by itself."""

    code: int
    """Of the ranks: the agents' common exit code."""
    own_restarts: int
    """How often the job had been requeued when this process started."""
    warned_by: int | None = None
    """The signal that came to this process, if one did."""

    @property
    def was_asked_to_leave(self) -> bool:
        """Whether the code says so: saved, nothing begun, or the script let the warning end it."""
        by_warning = self.warned_by is not None and self.code == 128 + self.warned_by
        return self.code == CONTINUE or by_warning


_TERMINATED = frozenset({128 + 15, 128 + 10, 128 + 12})
"""Ends by SIGTERM, SIGUSR1 or SIGUSR2, which is how Slurm warns."""

_ASKED = frozenset({128 + 10, 128 + 12})
"""Of those, what comes to a running job from `--signal` only, or from who wants it to leave.
Without `B:` this process gets none itself, and an agent that is still starting dies of it."""


def judge(ended: Ended, facts: JobFacts | None) -> RequeueDecision:
    """Return what happened and what to do.

    Args:
        ended: How the ranks ended.
        facts: Slurm's answer from after that; None: there is none yet.
    """
    if ended.code == DONE:
        return RequeueDecision(cause=Cause.DONE, action=RequeueAction.LEAVE, code=DONE)
    may_continue = ended.was_asked_to_leave or ended.code in _TERMINATED
    if not may_continue:
        return RequeueDecision(cause=Cause.FAILED, action=RequeueAction.LEAVE, code=ended.code)
    if facts is None:
        return RequeueDecision(cause=Cause.UNKNOWN, action=RequeueAction.ASK_AGAIN, code=CONTINUE)
    if facts.restarts > ended.own_restarts:
        return RequeueDecision(cause=Cause.REQUEUED, action=RequeueAction.LEAVE, code=ended.code)
    if facts.state == "RUNNING":
        return _judge_running(ended, facts)
    if facts.reason == "TimeLimit":
        # Only what has saved is worth starting again: else it would end the same way.
        action = RequeueAction.REQUEUE if ended.code == CONTINUE else RequeueAction.LEAVE
        return _allowed(
            RequeueDecision(cause=Cause.TIME_LIMIT, action=action, code=ended.code), facts
        )
    if facts.preempt_time_s is not None:
        # The grace is over: Slurm requeues it, or its partition says CANCEL.
        return RequeueDecision(cause=Cause.PREEMPTED, action=RequeueAction.LEAVE, code=ended.code)
    return RequeueDecision(cause=Cause.CANCELLED, action=RequeueAction.LEAVE, code=ended.code)


def _judge_running(ended: Ended, facts: JobFacts) -> RequeueDecision:
    if facts.preempt_time_s is not None:
        preempted = RequeueDecision(
            cause=Cause.PREEMPTED, action=RequeueAction.REQUEUE, code=ended.code
        )
        return _allowed(preempted, facts)
    if ended.was_asked_to_leave or ended.code in _ASKED:
        asked = RequeueDecision(cause=Cause.ASKED, action=RequeueAction.REQUEUE, code=ended.code)
        return _allowed(asked, facts)
    return RequeueDecision(cause=Cause.FAILED, action=RequeueAction.LEAVE, code=ended.code)


def _allowed(verdict: RequeueDecision, facts: JobFacts) -> RequeueDecision:
    """Return the verdict for a job that may not be requeued: --no-requeue, or no batch job."""
    if verdict.action is not RequeueAction.REQUEUE or (facts.may_requeue and facts.is_batch):
        return verdict
    return RequeueDecision(cause=verdict.cause, action=RequeueAction.TELL, code=verdict.code)
