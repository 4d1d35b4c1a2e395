"""What a notice means under Grid Engine, and the exit code that says what follows: pure functions.

Seen on SGE 8.1.9: 99 brings a job back, also one submitted with `-r n`, but none that was deleted
or whose h_rt is over; 100 holds it in an error state; every other code ends it. A job that
`qmod -rj` reschedules comes back whatever its code is.
"""

import signal

from ...contract.exit_codes import CONTINUE
from ...contract.preemption import PreemptionNotice, signal_name

RESCHEDULE = 99
"""The exit code after which Grid Engine starts the job again."""
WITHOUT_NOTIFY = (
    "submitted without -notify: qdel, qmod -rj and h_rt kill the job, and a suspension stops it, "
    "without a notice; the run then resumes from its newest checkpoint. Add `#$ -notify` to the "
    "job script."
)

_CAUSES = {
    signal.SIGUSR1: "suspension of the job, or its s_rt",
    signal.SIGUSR2: "kill of the job: qdel, qmod -rj or h_rt",
}


def notice(signum: int, notify_s: int, now: float) -> PreemptionNotice:
    """Return what Grid Engine announces by a signal.

    Args:
        signum: The signal.
        notify_s: Seconds from a notice to what it announces; 0: the job has none.
        now: Seconds since the epoch.
    """
    cause = _CAUSES.get(signal.Signals(signum)) if signum in list(signal.Signals) else None
    if cause is None or not notify_s:
        return PreemptionNotice(cause=cause or signal_name(signum), deadline=None)
    return PreemptionNotice(cause=cause, deadline=now + notify_s)


def wants_back(code: int, warned_by: int | None) -> bool:
    """Return whether a run that ended with a code shall be started again.

    Args:
        code: Of the ranks.
        warned_by: The signal that asked this process to leave; a script without `Run` may have let
            it end its ranks.
    """
    return code == CONTINUE or (warned_by is not None and code == 128 + warned_by)


def back_text(key: str) -> str:
    """Return the message about a job that is requeued."""
    return (
        f"exit code {RESCHEDULE}: Grid Engine puts job {key} back into the queue, unless it was "
        "deleted or its h_rt is over; the run resumes where it is now."
    )
