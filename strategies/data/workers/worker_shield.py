"""The loader worker's side: signals that are sent to every process are not for it.

A file of its own that imports the standard library only: a worker that is spawned runs it by its
path, since a module of this package's name may be something else in there.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

SHIELDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What a batch system, a container's end or a closing terminal sends to everyone."""


def enter(init_fn: Callable[[int], Any] | None, worker_id: int) -> None:
    """Be shielded, then do what the script wants done at a worker's start.

    Called by torch in the worker, after it has set its own handlers. The signals are blocked until
    here. A worker that is a thread leaves them to its process.
    """
    if multiprocessing.parent_process() is not None:
        _ignore_while_owned(os.getppid())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SHIELDED)
    if init_fn is not None:
        init_fn(worker_id)


def _ignore_while_owned(parent: int) -> None:
    """Ignore the signals by handlers: what is ignored or blocked would stay so over an exec."""

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getppid() != parent:  # its owner is gone: nobody is left who would end it
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    for signum in SHIELDED:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, handle)
