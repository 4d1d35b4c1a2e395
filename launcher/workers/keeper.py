"""Keep a command for another process: what ends that process by force asks the command to leave.

Run as a file with `python -I -S`: PARENT_PID COMMAND [ARGS]. Where the parent dies, or its children
are killed with it (as Ray does), this process dies at once and the command gets SIGTERM. Until then
SIGTERM is passed on to the command, and its exit code is this process's.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PASSED_ON = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """Never returns."""
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        os._exit(128 + signal.SIGKILL)  # it died before the line above
    keeper = os.getpid()
    # One that comes between the fork and the handler waits for the handler.
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    child = os.fork()
    if child == 0:
        _become(command, libc, keeper)
    for signum in _PASSED_ON:
        signal.signal(signum, lambda signum, frame: os.kill(child, signum))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _become(command: list[str], libc: ctypes.CDLL, keeper: int) -> None:
    """Exec the command, in a session of its own: a signal to the parent's group is not for it."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != keeper:
        os._exit(128 + signal.SIGKILL)
    os.setsid()
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)  # Python ignores these, and an exec keeps that
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    try:
        os.execvp(command[0], command)
    finally:
        os._exit(127)


if __name__ == "__main__":
    main()
