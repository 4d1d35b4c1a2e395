"""What the launcher's exit code means, and how it follows from the ends of the ranks."""

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    tick: int
    """Number of the look at the ranks which found it ended: smaller is earlier."""
    by_launcher: bool = False
    """It ended after the launcher had begun to end it, so it says nothing about the cause."""


def code_of_status(status: int | None) -> int:
    """Return the shell's exit code for a status: 128+n for signal n."""
    if status is None:
        return 128 + signal.SIGKILL
    return status if status >= 0 else 128 - status


def first_failure(outcomes: Iterable[Outcome]) -> Outcome | None:
    """Return the rank that failed first by itself, or None.

    Of several seen at the same look one killed by a signal comes first: a peer's death makes the
    others raise, hardly ever the other way round. Then comes one that left with a sentence of ours
    (USAGE): while it ends, its closed connections make the others raise too.
    """
    failures = [o for o in outcomes if not o.by_launcher and o.status not in (DONE, CONTINUE)]
    return min(
        failures,
        key=lambda o: (o.tick, (o.status or 0) >= 0, o.status != USAGE, o.rank),
        default=None,
    )


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
