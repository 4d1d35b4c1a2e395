"""Asking Slurm for the cause of a notice and the job's end, while ranks train or save."""

import contextlib
import subprocess
import time
from collections.abc import Callable

from ...contract.files.end_time import ToldEnd
from ...contract.preemption import PreemptionNotice, signal_name
from .job_info import JobFacts, parse_job
from .scontrol import ANSWER_S, start

LONGEST_PAUSE_S = 60.0
"""Between two questions about the end of the job's time."""
SAME_END_S = 2.0
"""Slurm counts whole seconds, and takes some of its own to start a job."""


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


def pause_s(left_s: float | None) -> float:
    """Return how long the end of the job's time is believed; pure.

    Args:
        left_s: Until then; None: it is not limited.
    """
    return LONGEST_PAUSE_S if left_s is None else min(max(left_s / 4, 5.0), LONGEST_PAUSE_S)


def moved_text(before_s: float | None, after_s: float | None, now: float) -> str:
    """Return what to say about an end that was asked for again; empty: it is where it was. Pure."""
    if after_s is None:
        return "" if before_s is None else "Slurm has lifted the limit of the job's time."
    left = f"it ends in {duration_text(after_s - now)}"
    if before_s is None:
        return f"Slurm has limited the job's time: {left}."
    if abs(after_s - before_s) < SAME_END_S:
        return ""
    way = "later" if after_s > before_s else "earlier"
    by = duration_text(abs(after_s - before_s))
    return f"Slurm has moved the end of the job's time: {left}, {by} {way} than before."


def duration_text(seconds: float) -> str:
    """Return "45 s" or "12:05 min"; pure."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 120 else f"{whole // 60}:{whole % 60:02d} min"


class SlurmAdvice:
    """Runs `scontrol show job` beside the supervising loop, on the first node only."""

    def __init__(
        self,
        key: str,
        *,
        own_restarts: int,
        kill_wait_s: float | None,
        end_time_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            key: The job, as scontrol knows it.
            own_restarts: How often it was requeued before this start.
            kill_wait_s: From SIGTERM to SIGKILL; None: not known.
            end_time_s: The end of its time, as known so far.
            clock: Seconds since the epoch.
        """
        self._key = key
        self._own_restarts = own_restarts
        self._kill_wait_s = kill_wait_s
        self._end_s = end_time_s
        self._clock = clock
        self._signum = 0
        self._asked_at = clock()
        self._process: subprocess.Popen[str] | None = None
        self._news: tuple[ToldEnd, str] | None = None

    def ask(self, signum: int) -> None:
        """See PreemptionCause; where scontrol cannot be run there is no answer."""
        if (before := self._process) is not None:
            before.kill()  # its answer may be from before the warning
            before.communicate()
        self._signum = signum
        self._start()

    def answer(self) -> PreemptionNotice | None:
        """See PreemptionCause."""
        if not self._signum or (facts := self._facts()) is None:
            return None
        self._note_end(facts)
        return warned(
            facts,
            self._signum,
            now=self._asked_at,
            own_restarts=self._own_restarts,
            kill_wait_s=self._kill_wait_s,
        )

    def end_time(self) -> tuple[ToldEnd, str] | None:
        """See PreemptionCause."""
        if not self._signum:
            self._look()
        news, self._news = self._news, None
        return news

    def _look(self) -> None:
        if self._process is not None:
            if (facts := self._facts()) is not None:
                self._note_end(facts)
            return
        # A step of the clock backwards, too, is a reason to ask.
        left_s = None if self._end_s is None else self._end_s - self._asked_at
        if not 0 <= self._clock() - self._asked_at < pause_s(left_s):
            self._start()

    def _note_end(self, facts: JobFacts) -> None:
        if facts.state != "RUNNING" or facts.preempt_time_s is not None:
            return  # that end is no limit of the job's time
        text = moved_text(self._end_s, facts.end_time_s, self._clock())
        self._end_s = facts.end_time_s
        self._news = ToldEnd(end_time_s=self._end_s, asked_at_s=self._asked_at), text

    def _start(self) -> None:
        self._process, self._asked_at = None, self._clock()
        with contextlib.suppress(OSError):
            self._process = start(["scontrol", "show", "job", self._key])

    def _facts(self) -> JobFacts | None:
        """Return Slurm's answer, once; None before and after, or where it has none."""
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            if self._clock() - self._asked_at > ANSWER_S:
                process.kill()
            return None
        self._process = None
        text, _ = process.communicate()
        return parse_job(text) if process.returncode == 0 else None
