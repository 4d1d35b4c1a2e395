"""Become a worker: tie this process to its parent's life, then exec the command.

Run as a file with `python -I -S`: PARENT_PID COMMAND [ARGS]. The parent-death signal survives the
exec. An own small program rather than a function run between fork and exec, which is not safe in
a launcher that has threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_CPUS = "RELAUNCH_CPUS"  # CPUS of contract/environment.py, which cannot be imported here


def main() -> None:
    """Never returns."""
    parent = int(sys.argv[1])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)  # it died before the line above
    if cpus := os.environ.get(_CPUS):
        os.sched_setaffinity(0, map(int, cpus.split(",")))
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(signum, signal.SIG_DFL)  # Python ignores these, and an exec keeps that
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
