"""The first process of a container (PID 1), which has duties that no other has.

The kernel drops a signal to PID 1 that it has no handler for, and makes PID 1 the parent of each
orphan, which stays a zombie until PID 1 reaps it. Where relaunch is PID 1, it therefore splits in
two: the parent remains PID 1, forwards signals and reaps; the child is the launcher.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

_OF_THE_TERMINAL = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
"""Stop signals, which a terminal sends to the child as well."""
_OF_THIS_PROCESS = {
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
    *(signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS),
}
"""What the kernel sends for a fault of the process itself; without an effect where blocked."""
_HELD = signal.valid_signals() - _OF_THE_TERMINAL - _OF_THIS_PROCESS
"""What the parent waits for. A blocked signal is kept, also for PID 1."""


@contextmanager
def child_of_init() -> Iterator[None]:
    """Split: the block and all that follows run in the child; the parent never returns.

    In the block signals are held back, so that none is lost before the child handles it. Called
    before this process has threads or unwritten output.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    child = os.fork()
    if child:
        _serve(child)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(child: int) -> NoReturn:
    """Be PID 1 until the child ends, then end with its code; what is left ends with PID 1."""
    try:
        while True:
            signum = signal.sigwait(_HELD)
            if signum != signal.SIGCHLD:
                os.kill(child, signum)
            elif (code := _reap(child)) is not None:
                os._exit(code)
    except BaseException:
        os._exit(1)


def _reap(child: int) -> int | None:
    """Reap all that have ended; return the child's exit code (128+n for signal n), else None."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended
