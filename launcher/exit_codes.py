"""What the launcher's exit code means, and how it follows from the ends of the ranks."""

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .failure_order import Failure, Kind, first_of

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


@dataclass(frozen=True, kw_only=True)
class Outcome:
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

    @property
    def by_launcher(self) -> bool:
        """Whether the launcher ended it, so that its end says nothing about the cause."""
        if self.ending_since_s is None:
            return False
        return self.told_s is None or self.told_s >= self.ending_since_s

    def told(self, at_s: float | None, code: int | None) -> "Outcome":
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

    def failure(self) -> Failure | None:
        """Return when and how it failed by itself; None: it did not."""
        if self.by_launcher or self.status in (DONE, CONTINUE):
            return None
        told_s = self.told_s
        return Failure(
            earliest_s=self.alive_s if told_s is None else told_s,
            latest_s=self.seen_s if told_s is None else told_s,
            kind=_kind(self.status, told=told_s is not None),
        )


def _kind(status: int | None, *, told: bool) -> Kind:
    if status == USAGE:
        return Kind.SENTENCE
    if told:
        return Kind.EXCEPTION
    if status is None or status == -signal.SIGKILL:
        return Kind.KILLED
    return Kind.SIGNAL if status < 0 else Kind.EXIT


def code_of_status(status: int | None) -> int:
    """Return the shell's exit code for a status: 128+n for signal n."""
    if status is None:
        return 128 + signal.SIGKILL
    return status if status >= 0 else 128 - status


def first_failure(outcomes: Iterable[Outcome]) -> Outcome | None:
    """Return the rank that failed first by itself, or None; see `first_of` for what is first."""
    by_rank = {outcome.rank: outcome for outcome in outcomes}
    failures = {rank: f for rank, o in sorted(by_rank.items()) if (f := o.failure()) is not None}
    first = first_of(failures)
    return None if first is None else by_rank[first]


def ended_by_warning(outcome: Outcome, warned_by: int | None) -> bool:
    """Tell whether the rank died of the forwarded warning because nothing in it handles SIGTERM."""
    return warned_by is not None and outcome.status == -signal.SIGTERM


def exit_code(
    outcomes: Sequence[Outcome], *, warned_by: int | None = None, killed_now: bool = False
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
        return DONE
    return 128 + (warned_by if warned_by is not None else signal.SIGKILL)
