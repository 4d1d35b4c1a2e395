"""The launcher's side of signals: handlers which set attributes, read by the supervising loop."""

import contextlib
import os
import signal
import time
from collections.abc import Sequence
from types import FrameType

WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)

SAME_KEYPRESS_S = 0.5
"""Two SIGINT this close are one Ctrl-C: a wrapper forwards what the terminal sent us as well."""
BEFORE_RANKS_S = 2.0
"""The same before the ranks are started. A handler may wait there for an import, so that two run
further apart than their signals came; and the first one ends relaunch soon anyway."""
ENDED_AT_ONCE = (
    "relaunch: Ctrl-C again, before the ranks were started: ending at once. The same command "
    "starts the run.\n"
)


class SignalInbox:
    """The signals that the launcher has received. One per process, installed on the main thread."""

    def __init__(self) -> None:
        self.warned_by: int | None = None
        """The first signal that asked the run to end; never changes afterwards."""
        self.warned_at_s: float | None = None
        """When the last one came, in seconds since the epoch."""
        self.num_warnings = 0
        """How many have come."""
        self.kill_now = False
        """A second Ctrl-C came."""
        self.wake_fd: int | None = None
        """Readable from a signal on until it is read, so that a wait ends; None before the ranks
        are started."""
        self._ranks_started = False
        self._interrupted_at: float | None = None
        self._handled: set[signal.Signals] = set()

    def install(self, more: Sequence[signal.Signals] = ()) -> None:
        """Handle the signals from here on, except those that were inherited as ignored (nohup).

        Args:
            more: signals to take as a preemption notice besides WARNINGS.
        """
        # Ignored SIGCHLD would let the kernel throw the ranks' exit codes away.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for signum in (*WARNINGS, *(set(more) - {signal.SIGINT})):
            self._handle_unless_ignored(signum)
        self._handle_unless_ignored(signal.SIGINT)

    def ranks_start(self) -> None:
        """From now on a second Ctrl-C kills ranks; until now it ended the launcher itself."""
        self._ranks_started = True
        with contextlib.suppress(OSError):  # without it the next look is a twentieth second away
            self.wake_fd = self.wake_fd or os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def close(self) -> None:
        """Ignore the signals from here on, since the exit code is known and there are no ranks.

        Python's own end takes its handlers away: what came in that time would kill this process and
        put another code in the place of the run's.
        """
        for signum in self._handled:
            signal.signal(signum, signal.SIG_IGN)

    def _handle_unless_ignored(self, signum: signal.Signals) -> None:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            self._handled.add(signum)
            signal.signal(signum, self._interrupt if signum == signal.SIGINT else self._warn)

    def _wake(self) -> None:
        if self.wake_fd is not None:
            with contextlib.suppress(OSError):
                os.eventfd_write(self.wake_fd, 1)

    def _warn(self, signum: int, frame: FrameType | None) -> None:
        self._wake()
        self.num_warnings += 1
        self.warned_at_s = time.time()
        if self.warned_by is None:
            self.warned_by = signum

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        same_s = SAME_KEYPRESS_S if self._ranks_started else BEFORE_RANKS_S
        if self._interrupted_at is None:
            self._interrupted_at = now
            self._warn(signum, frame)
        elif now - self._interrupted_at <= same_s:
            return
        elif self._ranks_started:
            self.kill_now = True
            self._wake()
        else:
            # A long import reads no flags, and nothing needs cleaning up yet.
            with contextlib.suppress(OSError):
                os.write(2, ENDED_AT_ONCE.encode())
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
