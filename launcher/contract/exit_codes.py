"""What the launcher's exit code means, and how it follows from the ends of the ranks."""

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .failure_order import Failure, Kind, first_of, follows
from .files.leaving import Leaving

DONE = 0
"""Every rank did what it had to do."""
USAGE = 2
"""What was asked is wrong; starting again changes nothing."""
CONTINUE = 75
"""Saved, and to be continued by starting the same command again (EX_TEMPFAIL)."""
DO_NOT_RETRY = 93
"""A rank says that starting again would end the same way."""

NEVER_RESTARTED = frozenset({DONE, USAGE, CONTINUE, DO_NOT_RETRY})
"""Codes after which `--max-restarts` does not start the ranks again."""
NOBODY_READS = 120
"""Python's own code, where at its end it could not print what it still had to: the console is gone.
"""

NOTICES = frozenset({signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2})
"""The signals by which a person or a batch system preempts a run."""


@dataclass(frozen=True, kw_only=True)
class RankEnd:
    """How one rank ended."""

    rank: int
    local_rank: int
    pid: int
    status: int | None
    """Exit code, or minus the signal's number; None: still there after SIGKILL."""
    alive_s: float
    """The last look that found it running; as all times here of the monotonic clock."""
    seen_s: float
    """When it was found ended."""
    ending_since_s: float | None = None
    """When the launcher began to end it, if it ended after that."""
    told_s: float | None = None
    """When the rank itself said that it failed."""
    left_s: float | None = None
    """When the rank itself said that all is saved and that it leaves."""
    lost_peer: bool = False
    """It failed with the words of a connection to another rank that broke."""
    caught_notice: bool = False
    """A script without `Run` that had a handler when the launcher passed a notice on to it."""
    spared: int | None = None
    """The status with which a notice ended it before there was anything to save: `status` then says
    that the run is to be continued."""

    @property
    def by_launcher(self) -> bool:
        """Whether the launcher ended it, so that its end says nothing about the cause."""
        if self.ending_since_s is None:
            return False
        return self.told_s is None or self.told_s >= self.ending_since_s

    def told(self, at_s: float | None, code: int | None) -> "RankEnd":
        """Return the outcome with what the rank said about its own failure.

        Args:
            at_s: When it said so; None: it did not, or not when.
            code: With which code it was about to leave. That counts where the launcher ended it
                before it was gone.
        """
        if at_s is None or at_s > self.seen_s:
            return self
        told = replace(self, told_s=at_s)
        ended_while_leaving = told.ending_since_s is not None and not told.by_launcher
        return replace(told, status=code) if ended_while_leaving and code is not None else told

    def leaving(self, told: Leaving | None) -> "RankEnd":
        """Return the outcome of a rank that said it may be ended, whichever signal did that."""
        if told is None:
            return self
        if self.status is not None and self.status >= 0 and self.status != NOBODY_READS:
            return replace(self, left_s=told.told_s)
        return replace(self, status=told.code, left_s=told.told_s, ending_since_s=None)

    @property
    def died_of_notice(self) -> bool:
        """Whether one of the signals that ask a run to leave ended it, sent by somebody else."""
        return is_notice(self.status) and not self.by_launcher

    def failure(self) -> Failure | None:
        """Return when and how it failed by itself; None: it did not."""
        if self.by_launcher or self.status in (DONE, CONTINUE):
            return None
        told_s = self.told_s
        return Failure(
            earliest_s=self.alive_s if told_s is None else told_s,
            latest_s=self.seen_s if told_s is None else told_s,
            kind=_kind(self.status, told=told_s is not None, lost_peer=self.lost_peer),
        )


def is_notice(status: int | None) -> bool:
    """Return whether a status is the end by a signal that preempts a run."""
    return status is not None and -status in NOTICES


def _kind(status: int | None, *, told: bool, lost_peer: bool) -> Kind:
    if status == USAGE:
        return Kind.SENTENCE
    if lost_peer:
        return Kind.PEER
    if told:
        return Kind.EXCEPTION
    if status is None or status == -signal.SIGKILL:
        return Kind.KILLED
    if is_notice(status):
        return Kind.NOTICE
    return Kind.SIGNAL if status < 0 else Kind.EXIT


def code_of_status(status: int | None) -> int:
    """Return the shell's exit code for a status: 128+n for signal n."""
    if status is None:
        return 128 + signal.SIGKILL
    return status if status >= 0 else 128 - status


def first_leaving(outcomes: Iterable[RankEnd]) -> float | None:
    """Return when the first rank left to be continued, as early as that may have been."""
    left = (o for o in outcomes if o.status == CONTINUE)
    return min((o.alive_s if o.left_s is None else o.left_s for o in left), default=None)


def followers(outcomes: Sequence[RankEnd]) -> tuple[RankEnd, ...]:
    """Return the ranks that failed only because the others had saved and exited."""
    left_s = first_leaving(outcomes)
    failed = ((outcome, outcome.failure()) for outcome in outcomes)
    return tuple(o for o, failure in failed if failure is not None and follows(failure, left_s))


def first_failure(outcomes: Sequence[RankEnd]) -> RankEnd | None:
    """Return the rank that failed first by itself, or None; see `first_of` for what is first.

    A rank that failed because the others had saved and exited has not failed.
    """
    excused = {outcome.rank for outcome in followers(outcomes)}
    by_rank = {outcome.rank: outcome for outcome in outcomes if outcome.rank not in excused}
    failures = {rank: f for rank, o in sorted(by_rank.items()) if (f := o.failure()) is not None}
    first = first_of(failures)
    return None if first is None else by_rank[first]


def ended_by_warning(outcome: RankEnd, warned_by: int | None) -> bool:
    """Return whether a notice ended the rank because nothing in it handles the signal."""
    return warned_by is not None and is_notice(outcome.status)


def ended_by_handling(outcomes: Sequence[RankEnd]) -> bool:
    """Return whether all ended with 0 and one by handling a notice: it may not be finished.

    A script without a handler would have died, and one that ignores the signal has run to its end.
    One that handles it may break off and end with 0, as with Lightning's Trainer. To start again
    what is finished costs a start; to take what is broken off for done costs the run.
    """
    return all(o.status == DONE for o in outcomes) and any(
        o.caught_notice and o.left_s is None for o in outcomes
    )


def spare(outcomes: Sequence[RankEnd], *, nothing_begun: bool, warned: bool) -> tuple[RankEnd, ...]:
    """Return the outcomes; what a notice ended where there was nothing to save has left.

    Args:
        outcomes: The end of every rank of an attempt.
        nothing_begun: The script saves by itself, and no rank has finished a step.
        warned: The launcher was asked to leave, and what it ended it ended for that.
    """
    if not nothing_begun:
        return tuple(outcomes)
    return tuple(
        replace(o, status=CONTINUE, spared=_status_of_killed(o.status))
        if o.died_of_notice or (warned and o.by_launcher and (o.status is None or o.status < 0))
        else o
        for o in outcomes
    )


def _status_of_killed(status: int | None) -> int:
    return -signal.SIGKILL if status is None else status


def exit_code(
    outcomes: Sequence[RankEnd], *, warned_by: int | None = None, killed_now: bool = False
) -> int:
    """Return the launcher's exit code.

    Args:
        outcomes: The end of every rank of the last attempt.
        warned_by: The signal which the launcher took as a warning, if one came.
        killed_now: A second Ctrl-C ended what still ran.
    """
    if any(o.status == DO_NOT_RETRY for o in outcomes):
        return DO_NOT_RETRY
    failure = first_failure(outcomes)
    if failure is not None and warned_by is not None and ended_by_warning(failure, warned_by):
        return 128 + warned_by
    if failure is not None:
        return code_of_status(failure.status)
    if killed_now and any(o.by_launcher for o in outcomes):
        return 128 + signal.SIGINT
    if any(o.status == CONTINUE for o in outcomes):
        return CONTINUE
    if all(o.status == DONE for o in outcomes):
        return CONTINUE if ended_by_handling(outcomes) else DONE
    return 128 + (warned_by if warned_by is not None else signal.SIGKILL)
