"""One attempt: the ranks from their start to the last one's end. Carries out what is decided."""

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ...contract.exit_codes import CONTINUE, DONE, NOBODY_READS, RankEnd, is_notice
from ...contract.files.end_time import end_time_file
from ...contract.launcher_signals import SignalInbox
from ...contract.preemption import PreemptionNotice, signal_name
from ...rendezvous.members.remote_status import RemoteStatus
from ...workers.worker import Worker, wait_for_an_end
from ..cluster import NoAdvice, PreemptionCause
from .hang_detection import HangWatch
from .preemption import ranks_text
from .stack_dump import kernel_stacks
from .supervision import Action, Bounds, Situation, next_step

POLL_S = 0.05
REMINDER_S = 60.0
"""How often a launcher that waits without a limit says for whom."""

JOINING = "more nodes take part"
"""The cause given to ranks that are to resume together with nodes that have come late."""
ENDED = "the failure of another rank"
"""The cause in the notice to ranks that are ended because the attempt is lost."""


class Attempt:
    """Watches the workers of one attempt, forwards a preemption notice and ends what has to end."""

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        inbox: SignalInbox,
        bounds: Bounds,
        warning_file: Path,
        awaits_handler: bool,
        say: Callable[[str], None],
        hang: HangWatch | None = None,
        write_stacks: Callable[[Sequence[Worker], str], None] = lambda workers, elsewhere: None,
        elsewhere: Callable[[], RemoteStatus] = RemoteStatus,
        advice: PreemptionCause | None = None,
        left: Callable[[int], int | None] = lambda rank: None,
        nothing_begun: Callable[[], bool] = lambda: False,
    ) -> None:
        self._running = list(workers)
        self._inbox = inbox
        self._bounds = bounds
        self._warning_file = warning_file
        self._awaits_handler = awaits_handler
        self._say = say
        self._hang = hang
        self._write_stacks = write_stacks
        self._elsewhere = elsewhere
        self._advice = advice or NoAdvice()
        self._left = left
        """The code that a rank reported before it left; None: it has not."""
        self._nothing_begun = nothing_begun
        """Whether there is nothing to save yet."""
        self._outcomes: list[RankEnd] = []
        self._untold: list[Worker] = []
        self._caught: set[int] = set()
        """Ranks of a script without `Run` that had a handler when the notice was forwarded."""
        self._reminded_at = 0.0
        self._deadline: float | None = None
        self._hung_elsewhere = ""
        self._joining = ""
        self._seen = Situation(now=time.monotonic(), num_running=len(workers))
        self._act: dict[Action, Callable[[], None]] = {
            Action.WAIT: self._wait,
            Action.ASK: self._ask,
            Action.WARN: self._warn,
            Action.REGROUP: self._regroup,
            Action.TERMINATE: self._terminate,
            Action.KILL: self._kill,
        }

    def supervise(self) -> tuple[RankEnd, ...]:
        """Return the outcome of every worker, after the last one has ended or was given up."""
        while True:
            self._look()
            step = next_step(self._seen, self._bounds)
            if step in (Action.DONE, Action.ABANDON):
                break
            self._act[step]()
        for worker in self._running:
            where = " ".join(next(kernel_stacks(worker.pid), "nothing is known of it").split())
            self._say(
                f"rank {worker.rank} (pid {worker.pid}) still exists "
                f"{self._bounds.abandon_s:g} s after SIGKILL: it hangs in the kernel, in a driver "
                f"or a file system ({where}). Not waiting for it any longer."
            )
            self._record(worker, None, self._seen.now)
        if not self._seen.told:
            with contextlib.suppress(OSError):
                self._warning_file.unlink(missing_ok=True)
        return tuple(sorted(self._outcomes, key=lambda outcome: outcome.rank))

    @property
    def warned_at_s(self) -> float | None:
        """When a preemption notice was seen, on the monotonic clock; None: there was none."""
        return self._seen.warned_at

    @property
    def hung(self) -> bool:
        """Whether the attempt was ended because no rank made progress."""
        return self._seen.hung_at is not None

    def _look(self) -> None:
        """Bring what has been seen up to date."""
        now = time.monotonic()
        if self._inbox.warned_by is not None and self._seen.warned_at is None:
            self._seen = replace(self._seen, warned_at=now)
        for worker in tuple(self._running):
            status = worker.poll()
            if status is not None:
                self._running.remove(worker)
                self._record(worker, status, now)
                self._note_end(worker.rank, status, now)
        self._look_for_a_hang(now)
        self._look_elsewhere(now)
        self._seen = replace(
            self._seen, now=now, num_running=len(self._running), kill_now=self._inbox.kill_now
        )

    def _look_for_a_hang(self, now: float) -> None:
        # After a warning the ranks save, which takes the time it takes and is no step.
        if self._hang is None or self._seen.warned_at is not None or self.hung:
            return
        if self._hang.is_hung(now):
            self._seen = replace(self._seen, hung_at=now)

    def _look_elsewhere(self, now: float) -> None:
        there, seen = self._elsewhere(), self._seen
        # Without --hang-timeout here nobody listens for the question where the ranks are.
        hung = bool(there.hung) and self._hang is not None
        if hung and seen.hung_at is None:
            self._hung_elsewhere = there.hung
        self._seen = replace(
            seen,
            lost_at=_first(seen.lost_at, there.lost, now),
            hung_at=_first(seen.hung_at, hung, now),
            failed_at=_first(seen.failed_at, there.failed and not hung, now),
            left_at=_first(seen.left_at, there.left, now),
            early_at=_first(seen.early_at, there.early and self._nothing_begun(), now),
            joining_at=_first(seen.joining_at, bool(there.joining), now),
        )
        self._joining = there.joining or self._joining

    def _record(self, worker: Worker, status: int | None, now: float) -> None:
        seen = self._seen
        # No SIGKILL is ours before we have sent one.
        asked_at = None if status == -signal.SIGKILL else seen.terminated_at
        self._outcomes.append(
            RankEnd(
                rank=worker.rank,
                local_rank=worker.local_rank,
                pid=worker.pid,
                status=status,
                alive_s=seen.now,
                seen_s=now,
                ending_since_s=seen.killed_at if asked_at is None else asked_at,
                caught_notice=worker.rank in self._caught,
            )
        )

    def _note_end(self, rank: int, status: int, now: float) -> None:
        told = self._left(rank) if status < 0 or status == NOBODY_READS else None
        code = status if told is None else told
        seen = self._seen
        if code == DONE:
            return
        if (code == CONTINUE or is_notice(code)) and self._nothing_begun():
            self._seen = replace(seen, early_at=_first(seen.early_at, True, now))
        elif code == CONTINUE or seen.told or seen.called:
            self._seen = replace(seen, left_at=_first(seen.left_at, True, now))
        else:
            self._seen = replace(seen, failed_at=_first(seen.failed_at, True, now))

    def _wait(self) -> None:
        self._tell_those_ready()
        self._pass_advice_on()
        self._pass_the_end_on()
        self._remind()
        wait_for_an_end(self._running, POLL_S, self._inbox.wake_fd)

    def _ask(self) -> None:
        self._write_stacks(self._running, self._hung_elsewhere)
        self._seen = replace(self._seen, asked=True)

    def _warn(self) -> None:
        signum = self._inbox.warned_by
        assert signum is not None
        grace_s = self._bounds.grace_s
        cause = "Ctrl-C" if signum == signal.SIGINT else signal_name(signum)
        self._deadline = None if grace_s is None else time.time() + grace_s
        self._write_warning(PreemptionNotice(cause=cause, deadline=self._deadline))
        self._advice.ask(signum)
        self._say(warning_text(cause, len(self._running), grace_s))
        self._untold = list(self._running)
        self._seen = replace(self._seen, told=True)
        self._reminded_at = self._seen.now
        self._tell_those_ready()

    def _regroup(self) -> None:
        self._write_warning(PreemptionNotice(cause=JOINING))
        self._say(joining_text(self._joining, len(self._running)))
        self._untold = list(self._running)
        self._seen = replace(self._seen, called=True)
        self._tell_those_ready()

    def _write_warning(self, warned: PreemptionNotice) -> None:
        with contextlib.suppress(OSError):  # a full disk takes the cause away, not the warning
            warned.write(self._warning_file)

    def _pass_advice_on(self) -> None:
        """Send the ranks, which save already, the cause and deadline of the notice."""
        warned = self._advice.answer()
        if warned is None:
            return
        known = [at for at in (self._deadline, warned.deadline) if at is not None]
        warned = replace(warned, deadline=min(known, default=None))
        self._write_warning(warned)
        self._say(advice_text(warned, time.time()))

    def _pass_the_end_on(self) -> None:
        """Send the ranks the new end of the job's time."""
        if (found := self._advice.end_time()) is None:
            return
        told, text = found
        told.write(end_time_file(self._warning_file))
        if text:
            self._say(text)

    def _tell_those_ready(self) -> None:
        """Forward the notice to each rank, once; to one of ours as soon as it can take it.

        Without a handler SIGTERM would end a rank that is still importing, and with it a run that
        only has to be continued.
        """
        if not self._untold:
            return
        since = _first_known(self._seen.warned_at, self._seen.joining_at)
        assert since is not None
        patient = self._awaits_handler and self._seen.now - since < self._bounds.handler_s
        for worker in tuple(self._untold):
            if worker not in self._running:
                self._untold.remove(worker)
            elif not patient or worker.catches_sigterm():
                self._untold.remove(worker)
                if not self._awaits_handler and worker.catches_sigterm():
                    self._caught.add(worker.rank)
                worker.tell(signal.SIGTERM)

    def _remind(self) -> None:
        if self._seen.told and self._seen.now - self._reminded_at >= REMINDER_S:
            self._reminded_at = self._seen.now
            self._say(f"still waiting for {names(self._running)} to exit.")

    def _terminate(self) -> None:
        if _first_known(self._seen.failed_at, self._seen.lost_at, self._seen.early_at) is None:
            self._say(
                f"{names(self._running)} did not exit within {self._bounds.leave_s:g} s "
                "after the others; ending it now."
            )
        self._untold = []
        has_failed = _first_known(self._seen.failed_at, self._seen.lost_at) is not None
        if has_failed and not self._seen.told:
            # Else each of these ranks takes it for a notice to itself alone and passes it on, and
            # this launcher would not restart a run that nobody has asked to leave.
            self._write_warning(PreemptionNotice(cause=ENDED))
        for worker in self._running:
            worker.tell(signal.SIGTERM)
        self._seen = replace(self._seen, terminated_at=self._seen.now)

    def _kill(self) -> None:
        if self._seen.kill_now:
            self._say(f"Ctrl-C again: killing {names(self._running)} now.")
        elif self._seen.terminated_at is None and self._seen.hung_at is None:
            self._say(f"--grace has expired: killing {names(self._running)} now.")
        self._untold = []
        for worker in self._running:
            worker.kill()
        self._seen = replace(self._seen, killed_at=self._seen.now)


def _first_known(*moments: float | None) -> float | None:
    return next((at for at in moments if at is not None), None)


def _first(before: float | None, now_true: bool, now: float) -> float | None:
    return now if before is None and now_true else before


def warning_text(cause: str, num_ranks: int, grace_s: float | None) -> str:
    """Return the message about a preemption notice: what came, what was done, what is next."""
    whom = "the rank" if num_ranks == 1 else f"all {num_ranks} ranks"
    limit = "" if grace_s is None else f" for at most {grace_s:g} s"
    text = f"{cause}: asking {whom} to save and exit, and waiting{limit}."
    return f"{text} Press Ctrl-C again to kill now." if cause == "Ctrl-C" else text


def joining_text(joining: str, num_ranks: int) -> str:
    """Return the message about nodes that arrive late; `joining` names them."""
    whom = "the rank" if num_ranks == 1 else f"all {num_ranks} ranks"
    verb = "are" if joining.startswith("nodes ") else "is"
    return f"{joining} {verb} joining: asking {whom} to save and resume with more nodes."


def advice_text(warned: PreemptionNotice, now: float) -> str:
    """Return the message about the cause of a notice."""
    if warned.deadline is None:
        return f"{warned.cause}: no deadline is known."
    return f"{warned.cause}: the ranks have {max(0.0, warned.deadline - now):.0f} s."


def names(workers: Sequence[Worker]) -> str:
    """Return "rank 3" or "ranks 0, 1, 3"."""
    return ranks_text(worker.rank for worker in workers)
