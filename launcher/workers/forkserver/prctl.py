"""What Linux lets a process say about itself and about what becomes of it."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None)


def die_with(parent: int) -> None:
    """Be killed when the parent ends; leave at once where it has ended already.

    The signal is bound to the thread that started or adopted this process: its main thread.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def set_name(name: str) -> None:
    """Set the short name that `top` and `ps` show, at most 15 bytes of it."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def adopt_orphans(on: bool) -> None:
    """Become the parent of each descendant whose own parent ends while this is on."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)
