"""Asking Slurm why a warning came and when the job will be killed, while the ranks already save."""

import contextlib
import subprocess
import time

from ..contract.preemption import PreemptionNotice, signal_name
from .job_info import JobFacts, parse_job
from .scontrol import start


def warned(
    facts: JobFacts, signum: int, *, now: float, own_restarts: int, kill_wait_s: float | None
) -> PreemptionNotice:
    """Return cause and deadline; pure.

    Args:
        facts: Slurm's answer from after the signal.
        signum: The signal.
        now: Seconds since the epoch.
        own_restarts: How often the job was requeued before this start.
        kill_wait_s: From SIGTERM to SIGKILL; None: not known.
    """
    if facts.state == "RUNNING" and facts.preempt_time_s is not None:
        return PreemptionNotice(cause="preempted by Slurm", deadline=facts.end_time_s)
    if facts.state == "RUNNING":
        return PreemptionNotice(cause=signal_name(signum), deadline=facts.end_time_s)
    killed = None if kill_wait_s is None else now + kill_wait_s
    if facts.restarts > own_restarts:
        return PreemptionNotice(cause="requeued by Slurm", deadline=killed)
    if facts.reason == "TimeLimit":
        return PreemptionNotice(cause="time limit", deadline=killed)
    if facts.preempt_time_s is not None:
        return PreemptionNotice(cause="end of the grace period", deadline=killed)
    return PreemptionNotice(cause="scancel", deadline=killed)


class SlurmAdvice:
    """Runs `scontrol show job` beside the supervising loop, on the first node only."""

    def __init__(self, key: str, *, own_restarts: int, kill_wait_s: float | None) -> None:
        self._key = key
        self._own_restarts = own_restarts
        self._kill_wait_s = kill_wait_s
        self._signum = 0
        self._asked_at = 0.0
        self._process: subprocess.Popen[str] | None = None

    def ask(self, signum: int) -> None:
        """See Advice; where scontrol cannot be run there is no answer."""
        self._signum, self._asked_at = signum, time.time()
        with contextlib.suppress(OSError):
            self._process = start(["scontrol", "show", "job", self._key])

    def answer(self) -> PreemptionNotice | None:
        """See Advice."""
        process = self._process
        if process is None or process.poll() is None:
            return None
        self._process = None
        text, _ = process.communicate()
        facts = parse_job(text) if process.returncode == 0 else None
        if facts is None:
            return None
        return warned(
            facts,
            self._signum,
            now=self._asked_at,
            own_restarts=self._own_restarts,
            kill_wait_s=self._kill_wait_s,
        )
