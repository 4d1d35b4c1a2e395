"""Become a worker: tie this process to its parent's life, then exec the command.

Run as a file with `python -I -S`: [--release-interrupt] PARENT_PID COMMAND [ARGS]. The parent-death
signal survives the exec. An own small program rather than a function run between fork and exec,
which is not safe in a launcher that has threads.
"""

import ctypes
import os
import signal
import sys

RELEASE_INTERRUPT = "--release-interrupt"
"""SIGINT, which was blocked for this program, reaches the command. Else it waits until the command
lets it through: a blocked signal stays so over the exec."""
_PR_SET_PDEATHSIG = 1
_CPUS = "RELAUNCH_CPUS"  # CPUS of contract/environment.py, which cannot be imported here


def main() -> None:
    """Never returns."""
    releases = sys.argv[1] == RELEASE_INTERRUPT
    parent, *command = sys.argv[1 + releases :]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        os._exit(128 + signal.SIGKILL)  # it died before the line above
    if cpus := os.environ.get(_CPUS):
        os.sched_setaffinity(0, map(int, cpus.split(",")))
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)  # Python ignores these, and an exec keeps that
    if releases:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of this program
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
