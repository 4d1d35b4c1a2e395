"""After the last rank has left: ask Slurm what happened, and do what was decided."""

import math
import os
import shlex
import time
from collections.abc import Callable

from ...contract.exit_codes import DO_NOT_RETRY
from ...contract.launcher_signals import SignalInbox
from .allocation import Allocation
from .job_info import JobFacts
from .requeue_policy import Cause, Ended, RequeueAction, RequeueDecision, judge
from .scontrol import ANSWER_S, Scontrol
from .side_by_side import left_text, no_time_text, turn_of, waiting_text

WITHOUT_ANSWER_S = 120.0
"""How long a silent controller is asked again where no grace period is known."""
RESERVE_S = 3.0
"""Before the deadline, to say the last sentence."""
LONGEST_PAUSE_S = 5.0
HOLD_S = 10
"""Slurm holds a requeued job for two minutes, unless its start is set to a time that is still
ahead when the last process of this start is gone. (Seen on 22.05.)"""
HOLD_TRIES = 3
BESIDE_RESERVE_S = 10.0
"""Before the job's end, to ask for a requeue that other steps of the job have held up."""
LONGEST_BESIDE_S = 86400.0
"""How long other steps are waited for in a job whose time has no limit."""

Record = Callable[[RequeueDecision], str | None]


class Requeue:
    """The end of one start in a job."""

    def __init__(
        self,
        allocation: Allocation,
        *,
        scontrol: Scontrol,
        inbox: SignalInbox,
        say: Callable[[str], None],
        end_time_s: float | None = None,
        grace_s: float | None = None,
        kill_wait_s: float | None = None,
        known: JobFacts | None = None,
        record: Record = lambda verdict: None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare.

        Args:
            allocation: The job.
            scontrol: Whom to ask.
            inbox: Signals that came to this process.
            say: Tells the person.
            end_time_s: The end of the job's time, as known so far.
            grace_s: The partition's grace period, as known so far.
            kill_wait_s: From SIGTERM to SIGKILL, as known so far.
            known: What Slurm said when this process started.
            record: Told before a requeue; returns why there must be none.
            clock: Seconds since the epoch.
            sleep: Waits for some seconds.
        """
        self._allocation = allocation
        self._scontrol = scontrol
        self._inbox = inbox
        self._say = say
        self._grace_s = grace_s
        self._kill_wait_s = 30.0 if kill_wait_s is None else kill_wait_s
        self._known = self._latest = known
        self._record = record
        self._clock = clock
        self._sleep = sleep
        self._deadline_s = clock() + max(grace_s or 0.0, WITHOUT_ANSWER_S)
        # A job that still runs after its end has been given more time meanwhile.
        if end_time_s is not None and end_time_s > clock():
            self._deadline_s = min(self._deadline_s, end_time_s)

    def settle(self, ended: Ended) -> int:
        """Do what the end of the ranks calls for and return the exit code."""
        verdict = self._judge(ended)
        if verdict.action is not RequeueAction.REQUEUE:
            return self._leave(verdict)
        if (refused := self._record(verdict)) is not None:
            self._say(refused)
            return DO_NOT_RETRY
        if self._allocation.step is not None:
            after = self._after_other_steps(self._allocation.step, verdict, ended)
            if after is None:
                return verdict.code
            if after.action is not RequeueAction.ASK_AGAIN:
                verdict = after
        if verdict.action is RequeueAction.REQUEUE:
            return self._requeue(verdict, ended)
        return self._leave(verdict)

    def _after_other_steps(
        self, own: int, verdict: RequeueDecision, ended: Ended
    ) -> RequeueDecision | None:
        """Return the verdict once no other step of the job works; None: another one asks."""
        key, job_id = self._allocation.key, self._allocation.job_id
        latest_s, pause_s, waited = self._clock() + LONGEST_BESIDE_S, 0.5, False
        while (turn := turn_of(own, self._scontrol.steps(job_id))).wait_for:
            if self._clock() >= min(latest_s, self._beside_until_s()):
                self._say(no_time_text(key, turn))
                return verdict
            if not waited:
                waited = True
                self._say(waiting_text(key, turn))
                self._scontrol.mark_left(job_id, own)
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            now = judge(ended, self._job())
            if now.cause is Cause.REQUEUED:
                self._say(f"job {key} is back in the queue.")
                return None
            if now.action is not RequeueAction.ASK_AGAIN:
                verdict = now
            if verdict.action is not RequeueAction.REQUEUE:
                return verdict
        if turn.left_to is not None:
            self._say(left_text(key, turn))
            return None
        return self._judge(ended) if waited else verdict

    def _beside_until_s(self) -> float:
        """Return until when other steps may be waited for, in seconds since the epoch."""
        facts = self._latest
        if facts is None or facts.state != "RUNNING":
            return self._clock() + self._time_left_s()
        return math.inf if facts.end_time_s is None else facts.end_time_s - BESIDE_RESERVE_S

    def _job(self, bound_s: float = ANSWER_S) -> JobFacts | None:
        """Ask for the job; the answer is kept for its end."""
        facts = self._scontrol.job(self._allocation.key, bound_s)
        self._latest = facts or self._latest
        return facts

    def _leave(self, verdict: RequeueDecision) -> int:
        if verdict.cause is Cause.REQUEUED:
            self._say("Slurm has put the job back into the queue by itself; it resumes from there.")
        elif verdict.cause is Cause.CANCELLED:
            self._say("the job was cancelled and stays so. The same command resumes the run.")
        elif verdict.action is not RequeueAction.LEAVE:
            self._tell(verdict)
        return verdict.code

    def _judge(self, ended: Ended) -> RequeueDecision:
        """Return the verdict on Slurm's answer; ASK_AGAIN where there was none in time."""
        pause_s = 0.5
        verdict = judge(ended, None)
        reported = False
        while verdict.action is RequeueAction.ASK_AGAIN:
            came_before = self._inbox.num_warnings
            bound_s = max(1.0, min(12.0, self._time_left_s()))
            verdict = judge(ended, self._job(bound_s))
            if self._inbox.num_warnings != came_before and verdict.action is RequeueAction.REQUEUE:
                # Slurm has begun to end the job meanwhile: the answer may be from before.
                verdict = judge(ended, None)
                continue
            if verdict.action is not RequeueAction.ASK_AGAIN or self._time_left_s() <= 0:
                break
            if not reported:
                reported = True
                self._say(
                    f"asking Slurm why the job ends: {self._scontrol.problem or 'no such job'}. "
                    f"Trying again for at most {self._time_left_s():.0f} s."
                )
            self._sleep(min(pause_s, self._time_left_s()))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return verdict

    def _time_left_s(self) -> float:
        if self._inbox.warned_at_s is not None:
            killed_at_s = self._inbox.warned_at_s + self._kill_wait_s
            return min(self._deadline_s, killed_at_s) - RESERVE_S - self._clock()
        return self._deadline_s - RESERVE_S - self._clock()

    def _requeue(self, verdict: RequeueDecision, ended: Ended) -> int:
        key = self._allocation.key
        pause_s = 0.5
        while not self._scontrol.requeue(key):
            problem = self._scontrol.problem
            now = judge(ended, self._scontrol.job(key))
            if now.cause is Cause.REQUEUED:
                break  # it was taken, and only the answer was lost
            if now.action not in (RequeueAction.REQUEUE, RequeueAction.ASK_AGAIN):
                return self._leave(now)
            if self._time_left_s() <= 0:
                self._say(f"Slurm did not put job {key} back into the queue: {problem}.")
                self._tell(verdict)
                return verdict.code
            self._sleep(min(pause_s, self._time_left_s()))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        lifted = any(self._scontrol.start_after(key, HOLD_S) for _ in range(HOLD_TRIES))
        when = f"{HOLD_S} s from now" if lifted else "in about two minutes"
        self._say(
            f"{verdict.cause}: put job {key} back into the queue; it may start {when} "
            "and resumes where it is now."
        )
        return verdict.code

    def _tell(self, verdict: RequeueDecision) -> None:
        how = by_hand(self._allocation, self._known)
        if verdict.cause is Cause.UNKNOWN:
            self._say(
                f"Slurm does not answer ({self._scontrol.problem}). Unless it puts the job back "
                f"into the queue by itself, continue by hand: {how}"
            )
            return
        interactive = self._known is not None and not self._known.is_batch
        kind = "an interactive job cannot" if interactive else "the job may not"
        self._say(f"{verdict.cause}, and {kind} be requeued. Continue by hand: {how}")


def by_hand(
    allocation: Allocation,
    known: JobFacts | None,
    is_file: Callable[[str], bool] = os.path.isfile,
) -> str:
    """Return the one command with which a person resumes; pure, except that it reads a path."""
    if known is not None and not known.is_batch:
        return "start the same command again, in a new allocation."
    # With a blank it may be a path, or a path and arguments that lack their quotes.
    script = None if known is None else known.script
    if script is None or (" " in script and not is_file(script)):
        return f"scontrol requeue {allocation.key}"
    folder = known.folder if known is not None else None
    where = "" if folder is None else f"--chdir={shlex.quote(folder)} "
    return f"sbatch {where}{shlex.quote(script)}"
