"""What Linux lets a process say about itself and about what becomes of it."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def adopting() -> Iterator[None]:
    """Become the parent of each grandchild whose own parent ends within the block.

    Only within it: for the rest of the run what a rank leaves behind goes to init as ever, which
    reaps it, and not to a launcher that knows nothing of it.
    """
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
