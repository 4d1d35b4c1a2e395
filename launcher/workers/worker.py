"""One worker process: a rank of this node, the leader of its own session and process group."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from checkpointing.readable import readable

from . import exec_worker
from .guardian import kill_group


@dataclass(frozen=True, kw_only=True)
class WorkerStreams:
    """Where a worker's output goes; None inherits the launcher's own."""

    stdout: IO[bytes] | int | None = None
    stderr: IO[bytes] | int | None = None


class Process(Protocol):
    """A child of the launcher, however it came to be one."""

    pid: int
    returncode: int | None

    def wait(self, timeout: float) -> int:
        """Reap it; raises TimeoutError or subprocess.TimeoutExpired."""


class Worker:
    """A started rank.

    It is not reaped before `release`: until then its process id, which is also its group's, cannot
    be given to anybody else.
    """

    def __init__(self, rank: int, local_rank: int, process: Process) -> None:
        self.rank = rank
        self.local_rank = local_rank
        self.pid = process.pid
        self._end_fd = _open_pidfd(process.pid)
        self._process = process

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        streams: WorkerStreams,
        *,
        rank: int,
        local_rank: int,
        holds_interrupt: bool = False,
    ) -> "Worker":
        """Start the command; called on the main thread only.

        The parent-death signal is bound to the thread that starts a process. With `holds_interrupt`
        SIGINT is blocked in it.
        """
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        is_held = holds_interrupt or signal.SIGINT in previous
        release = () if is_held else (exec_worker.RELEASE_INTERRUPT,)
        own = (sys.executable, "-I", "-S", exec_worker.__file__, *release, str(os.getpid()))
        try:
            process = subprocess.Popen(
                [*own, *command],
                env=environment,
                stdin=None if rank == 0 else subprocess.DEVNULL,
                stdout=streams.stdout,
                stderr=streams.stderr,
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        return cls(rank, local_rank, process)

    def poll(self) -> int | None:
        """Return the exit code, minus the signal's number, or None while it runs."""
        if self._process.returncode is not None:
            return self._process.returncode
        end = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if end is None:
            return None
        return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status

    def catches_sigterm(self) -> bool:
        """Return whether the process has a handler for SIGTERM by now."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return True
        return catches(status, signal.SIGTERM)

    def tell(self, signum: int) -> None:
        """Send a signal to the rank alone: its DataLoader workers have to live until it saved."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill the rank and everything in its process group."""
        kill_group(self.pid)

    def release(self, bound_s: float) -> None:
        """Reap the process; gives up after `bound_s` seconds if it is still there."""
        with contextlib.suppress(subprocess.TimeoutExpired, TimeoutError):
            self._process.wait(timeout=bound_s)
        if self._end_fd is not None:
            os.close(self._end_fd)
            self._end_fd = None


def wait_for_an_end(workers: Iterable[Worker], bound_s: float, wake_fd: int | None = None) -> None:
    """Return as soon as one of the workers ends, and after `bound_s` seconds in any case.

    Also as soon as there is something to read at the eventfd `wake_fd`, which is read.
    """
    known = list(workers)
    fds = [worker._end_fd for worker in known if worker._end_fd is not None]
    if len(fds) < len(known):
        time.sleep(bound_s)  # a kernel older than 5.3 cannot tell
        return
    readable(fds if wake_fd is None else [*fds, wake_fd], bound_s)
    if wake_fd is not None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(wake_fd)


def wait_for_end(pid: int, bound_s: float) -> None:
    """Return as soon as a child, which is not reaped here, has ended, or after `bound_s` seconds.

    The `wait` of subprocess looks in ever longer intervals.
    """
    if (fd := _open_pidfd(pid)) is None:
        return
    try:
        readable([fd], bound_s)
    finally:
        os.close(fd)


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def catches(status: str, signum: int) -> bool:
    """Read the mask of caught signals in the text of /proc/PID/status."""
    for line in status.splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
    return False
