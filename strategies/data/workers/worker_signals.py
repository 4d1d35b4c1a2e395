"""The owner's side: loader workers outlive the signals that are sent to every process.

A worker must live until its owner has saved. It ignores those signals (see `worker_shield`), and
its owner ends it by SIGKILL where torch and multiprocessing would send SIGTERM.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import operator
import os
import runpy
import signal
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from ... import torch_internals
from . import worker_shield
from .fork_server import start_fork_server
from .worker_shield import SHIELDED

_started: weakref.WeakSet[Any] = weakref.WeakSet()
"""The iterators whose workers may be running."""


def shield_loader_workers() -> str | None:
    """Let the workers of every DataLoader of this process outlive signals that are sent to all.

    Called once in a rank, before it opens a loader; again is harmless. It changes DataLoader for
    the whole process: the workers of loaders that the script makes itself are shielded too.
    Other processes that the script starts are not touched.

    Returns:
        None, or why this version of torch is left as it is.
    """
    if getattr(torch_internals.loader_start(), "shields_workers", False):
        return None
    reason = torch_internals.wrap_loader_start(_shielding)
    if reason is not None:
        return f"loader workers are not shielded from signals, since this torch differs: {reason}."
    # Before multiprocessing's own, which was registered when torch was imported.
    atexit.register(_end_workers, os.getpid())
    return None


def shield_workers_of(loader: object) -> None:
    """Do the same for the class of one loader, where it starts its workers in a way of its own."""
    cls: Any = type(loader)
    start = getattr(cls, "_get_iterator", None)
    if callable(start) and not getattr(start, "shields_workers", False):
        cls._get_iterator = _shielding(start)


def _shielding(start: torch_internals.StartIterator) -> torch_internals.StartIterator:
    @functools.wraps(start)
    def start_shielded(loader: Any) -> Any:
        if loader.num_workers == 0:
            return start(loader)
        before = set(multiprocessing.active_children())
        init_fn = loader.worker_init_fn
        loader.worker_init_fn = _Init(init_fn)
        iterator = None
        try:
            with _signals_held(loader):
                iterator = start(loader)
        finally:
            loader.worker_init_fn = init_fn
            workers = torch_internals.worker_processes(iterator)
            _end_by_kill(workers or set(multiprocessing.active_children()) - before)
        _started.add(iterator)
        return iterator

    start_shielded.shields_workers = True  # type: ignore[attr-defined]
    return start_shielded


class _Init:
    """What a worker does first. Pickled by the path of a file, not by this module's name."""

    def __init__(self, init_fn: Callable[[int], Any] | None) -> None:
        self._init_fn = init_fn

    def __call__(self, worker_id: int) -> None:
        worker_shield.enter(self._init_fn, worker_id)

    def __reduce__(self) -> tuple[Any, ...]:
        names = _Later(runpy.run_path, worker_shield.__file__)
        enter = _Later(operator.getitem, names, worker_shield.enter.__name__)
        return functools.partial, (enter, self._init_fn)


class _Later:
    """Stands for the result of a call that is made when this is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


@contextmanager
def _signals_held(loader: Any) -> Iterator[None]:
    """Hold the signals back while workers start: each has them blocked until it has its handlers.

    A blocked signal stays blocked over fork and exec. What comes for this process meanwhile is
    delivered at the end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
    try:
        context = loader.multiprocessing_context or multiprocessing
        if context.get_start_method() != "fork":
            # By its start it lets SIGTERM and SIGINT through again.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
        if context.get_start_method() == "forkserver":
            start_fork_server()
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_by_kill(workers: Iterable[BaseProcess]) -> None:
    """Let SIGKILL be sent where torch or multiprocessing ends a worker by SIGTERM.

    The latter then waits without a limit for a worker which ignores that.
    """
    for worker in workers:
        popen = getattr(worker, "_popen", None)
        if popen is not None:
            popen.terminate = popen.kill


def _end_workers(owner: int) -> None:
    """Let workers that are still running be no reason to wait or to complain at the exit."""
    if os.getpid() != owner:
        return
    for iterator in tuple(_started):
        torch_internals.forget_worker_deaths(iterator)
        for worker in torch_internals.worker_processes(iterator):
            worker.kill()
