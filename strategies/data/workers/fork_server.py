"""multiprocessing's fork server, started so that it outlives signals which are sent to everyone.

A loader worker ends when its parent does, and with this start method (the default from Python 3.14
on) that is the fork server.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, util
from typing import Any

from .worker_shield import SHIELDED

_PRELUDE = f"""\
import signal
from multiprocessing.process import BaseProcess
def _letting_through(bootstrap):
    def start(self, *args, **options):
        if not str(getattr(self._target, "__module__", "")).startswith("torch.utils.data"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {tuple(map(int, SHIELDED))})
        return bootstrap(self, *args, **options)
    return start
BaseProcess._bootstrap = _letting_through(BaseProcess._bootstrap)
"""
"""Run by the server before its own program. What it forks has the signals blocked: a loader worker
until it is shielded, any other process until it begins."""


def start_fork_server() -> None:
    """Start the server with the signals blocked, for good; nothing to do where it runs already.

    Called with the signals blocked.
    """
    with _changed_command():
        forkserver.ensure_running()


@contextmanager
def _changed_command() -> Iterator[None]:
    original = util.spawnv_passfds

    def spawn(path: Any, args: Sequence[Any], fds: Sequence[int]) -> Any:
        *others, option, program = args
        if option == "-c" and "multiprocessing.forkserver import main" in str(program):
            return original(path, [*others, option, _PRELUDE + program], fds)
        # Of another Python's server nothing is known: what it forks must not have them blocked.
        held = signal.pthread_sigmask(signal.SIG_UNBLOCK, SHIELDED)
        try:
            return original(path, args, fds)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    util.spawnv_passfds = spawn  # type: ignore[assignment]
    try:
        yield
    finally:
        util.spawnv_passfds = original
