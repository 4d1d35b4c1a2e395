"""The rank's side of a preemption notice: a handler which sets a flag, and lets the launcher know.

SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGINT ask the rank to save and exit. Under plain
`python train.py` the second Ctrl-C raises KeyboardInterrupt. Under relaunch a terminal's Ctrl-C
reaches the launcher only, and what is sent to every process, how often ever, is one notice.
"""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from .files.small_file import write_json

WARNING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


@dataclass(frozen=True, kw_only=True)
class PreemptionNotice:
    """What the launcher knows about a preemption notice; passed in a file beside the signal."""

    cause: str
    """As a person says it: "SIGUSR1", "Ctrl-C"."""
    deadline: float | None = None
    """Seconds since the epoch at which the ranks are killed; None: no limit is known."""

    def write(self, path: Path) -> None:
        """Write the file; called in the launcher, before the signal is sent."""
        write_json(path, {"cause": self.cause, "deadline": self.deadline})

    @classmethod
    def read(cls, path: Path) -> "PreemptionNotice | None":
        """Return what the file says, or None when there is none or it is not ours."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(cause=str(content["cause"]), deadline=content.get("deadline"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def signal_name(signum: int) -> str:
    """Return SIGTERM for 15, and so on; "signal 99" for a number without a name."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


class PreemptionFlag:
    """Remembers that this rank has received a preemption notice.

    One per rank, installed by the training loop around its steps and read at the boundary:

        flag = PreemptionFlag(environment.warning_file)
        with flag.install():
            ...
            if flag.requested: ...
    """

    def __init__(self, warning_file: Path | None = None, launcher: int | None = None) -> None:
        """Prepare.

        Args:
            warning_file: Where the launcher writes what it knows; None: there is no launcher.
            launcher: Its process id. What comes to this rank alone is passed on to it: then all
                ranks learn of it, with a deadline.
        """
        self._warning_file = warning_file
        self._launcher = launcher
        self._signum: int | None = None
        self._owner = os.getpid()
        self._previous: dict[int, Handler] = {}
        self._forks = _ForkGuard(self._after_fork)

    @property
    def requested(self) -> bool:
        """Whether a notice has come. Never becomes False again."""
        return self._signum is not None

    @property
    def cause(self) -> str | None:
        """The launcher's cause, else the signal that came here; None before a notice."""
        if self._signum is None:
            return None
        warned = self._told()
        if warned is not None:
            return warned.cause
        return "Ctrl-C" if self._signum == signal.SIGINT else signal_name(self._signum)

    @property
    def deadline(self) -> float | None:
        """Seconds since the epoch at which this rank is killed; None where no limit is known."""
        warned = self._told() if self.requested else None
        return None if warned is None else warned.deadline

    @contextmanager
    def install(self) -> Iterator["PreemptionFlag"]:
        """Handle the signals until the block ends, then restore what was there before.

        Called on the main thread. An ignored signal (nohup) stays ignored. Installing twice is
        harmless: the inner block changes nothing.
        """
        if self._previous:
            yield self
            return
        self.install_until_exit()
        try:
            yield self
        finally:
            if os.getpid() == self._owner:
                for handled, before in self._previous.items():
                    # None: a handler installed from C; it cannot be put back from Python.
                    signal.signal(handled, signal.SIG_DFL if before is None else before)
            self._previous = {}

    def install_until_exit(self) -> None:
        """Handle the signals for the rest of the process.

        For a rank that ends with its run: a late warning must not kill it while it is leaving,
        after it has saved.
        """
        self._owner = os.getpid()
        for signum in (*WARNING_SIGNALS, signal.SIGINT):
            previous = signal.getsignal(signum)
            if previous is not signal.SIG_IGN:
                self._previous[signum] = previous
                signal.signal(signum, self._handle)
        self._forks.arm()

    def ignore_from_now(self) -> None:
        """Ignore the signals for the rest of the process: nothing is left to be saved.

        The interpreter gives handlers up when it ends; what is ignored stays so to the last moment.
        """
        for signum in self._previous:
            signal.signal(signum, signal.SIG_IGN)

    def _told(self) -> PreemptionNotice | None:
        return None if self._warning_file is None else PreemptionNotice.read(self._warning_file)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            self._handle_in_child(signum, frame)
        elif signum == signal.SIGINT == self._signum and self._warning_file is None:
            raise KeyboardInterrupt
        elif self._signum is None or signum == signal.SIGINT:
            self._signum = signum
            self._pass_on(signum)

    def _pass_on(self, signum: int) -> None:
        launcher, file = self._launcher, self._warning_file
        self._launcher = None
        if launcher is None or launcher != os.getppid() or (file is not None and file.exists()):
            return
        with contextlib.suppress(OSError):
            # Two Ctrl-C would be an order to kill; a rank has no person at its keyboard.
            os.kill(launcher, signal.SIGTERM if signum == signal.SIGINT else signum)

    def _handle_in_child(self, signum: int, frame: FrameType | None) -> None:
        # A child that was made without Python's fork hooks; else _after_fork has seen to it.
        if signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            return
        previous = self._previous.get(signum)
        if callable(previous):
            previous(signum, frame)
        else:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def _after_fork(self) -> None:
        # A forked child (a DataLoader or Pool worker) must still die of SIGTERM, or its parent's
        # terminate() and join() would wait for ever. It keeps the handler of the others: a batch
        # system that signals every process must not take it away from a rank that saves.
        signal.set_wakeup_fd(-1)  # the parent's pipe: what comes to the child is not for it
        for signum in (signal.SIGTERM, signal.SIGINT):
            if signum in self._previous:
                before = self._previous[signum]
                signal.signal(signum, signal.SIG_DFL if before is None else before)


class _ForkGuard:
    """Holds signals back while a process forks, until the child has its own handlers.

    CPython forgets in a new child what has come since the fork (_PySignal_AfterFork): a SIGTERM
    sent to it in its first moment would be lost to a handler that is written in Python.
    """

    def __init__(self, in_child: Callable[[], None]) -> None:
        self._in_child = in_child
        self._masks = threading.local()
        self._is_armed = False

    def arm(self) -> None:
        """Begin to guard every fork of this process; once is enough, and for good."""
        if not self._is_armed:
            self._is_armed = True
            os.register_at_fork(
                before=self._hold, after_in_parent=self._release, after_in_child=self._enter_child
            )

    def _hold(self) -> None:
        self._masks.before = signal.pthread_sigmask(
            signal.SIG_BLOCK, (*WARNING_SIGNALS, signal.SIGINT)
        )

    def _release(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _enter_child(self) -> None:
        self._in_child()
        self._release()
