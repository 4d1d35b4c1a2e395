"""When the machines will be taken away, as far as a batch system has said it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Each field is None where nothing is known."""

    end_time_s: float | None = None
    """The end of the job's time, in seconds since the epoch."""
    grace_s: float | None = None
    """From the warning of a preemption to its end; 0: there is no grace."""
    kill_wait_s: float | None = None
    """From SIGTERM to SIGKILL in any other case."""
