"""Become a rank: what a fork of the fork server sheds and takes on before it runs the script."""

import faulthandler
import fcntl
import gc
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from ...contract.environment import CPUS
from ...plan.python_command import PythonProgram
from ...plan.shadowing import NEEDED_BY
from ..process_end import Before
from .descriptors import close_all_but
from .drawn_at_import import DrawnAtImport
from .main_module import run_and_exit
from .prctl import die_with, set_name
from .process_title import rewrite_title

GO = b"g"
"""What the launcher writes for each rank once it is their parent and knows them all."""


@dataclass(frozen=True, kw_only=True)
class RankStart:
    """All that makes one rank different from the server it is forked from."""

    launcher: int
    """The launcher's process id."""
    program: PythonProgram
    command: Sequence[str] = ()
    """What `ps` is to show."""
    environment: Mapping[str, str] = field(default_factory=dict)
    signal_mask: frozenset[int]
    kept: frozenset[int]
    """Descriptors that an import has opened and keeps using."""
    draws: DrawnAtImport = field(default_factory=DrawnAtImport)
    """What is to be drawn anew in each rank."""
    keeps_our_packages: bool
    """The script uses ours; else an import of a name like ours is the script's own business."""
    libraries: frozenset[str] = frozenset()
    """Those that were mapped before a --preload; see `Before`."""


def become_rank(start: RankStart, streams: Sequence[int], go: int) -> NoReturn:
    """Wait until the launcher is the parent and has said go, then run the script.

    Args:
        start: What to become.
        streams: The descriptors for stdin, stdout and stderr.
        go: A pipe with one byte for each rank of the group; it ends without one where the launcher
            has given the group up, or is gone.
    """
    os.setsid()
    go = _take_descriptors(streams, go, start.kept)
    if os.read(go, 1) != GO:
        os._exit(128 + signal.SIGKILL)
    os.close(go)
    die_with(start.launcher)
    os.environ.clear()
    os.environ.update(start.environment)
    if cpus := start.environment.get(CPUS):
        os.sched_setaffinity(0, map(int, cpus.split(",")))
    rewrite_title(start.command, start.environment)
    set_name(f"rank {start.environment['RANK']}")
    _renew_state(start.draws)
    _shield_loader_workers()
    if not start.keeps_our_packages:
        _forget_our_packages()
    signal.pthread_sigmask(signal.SIG_SETMASK, start.signal_mask)
    before = Before(frozenset(sys.modules), start.libraries)
    run_and_exit(start.program, before if start.keeps_our_packages else None)


def reset_signals() -> None:
    """Give every signal the disposition that Python itself starts with; keep what is ignored."""
    signal.set_wakeup_fd(-1)
    for signum in signal.valid_signals():
        if callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _take_descriptors(streams: Sequence[int], go: int, kept: frozenset[int]) -> int:
    """Make the streams 0, 1 and 2 and close all others but `go` and `kept`; return `go` anew.

    Above all the server's socket, whose end tells the launcher that there is no server.
    """
    *streams, go = (fcntl.fcntl(fd, fcntl.F_DUPFD, 3) for fd in (*streams, go))
    for fd, source in enumerate(streams):
        os.dup2(source, fd)
    close_all_but({go, *kept})
    return go


def _renew_state(draws: DrawnAtImport) -> None:
    """Give this process what each Python draws for itself (`random` sees to itself)."""
    draws.renew()
    multiprocessing.current_process().authkey = os.urandom(32)
    faulthandler.enable(file=2)
    sys._xoptions["faulthandler"] = True  # for the processes that multiprocessing spawns
    gc.enable()


def _shield_loader_workers() -> None:
    """Let the workers of each DataLoader of the script outlive signals, whether it uses us or not.

    What does that is found by its place: beside the script may be another `strategies`.
    """
    package = ModuleType("strategies of relaunch")
    package.__path__ = [str(Path(__file__).resolve().parents[3] / "strategies")]
    sys.modules[package.__name__] = package
    module = importlib.import_module(f"{package.__name__}.data.workers.worker_signals")
    module.shield_loader_workers()
    for name in tuple(sys.modules):
        if name.partition(".")[0] == package.__name__:
            del sys.modules[name]


def _forget_our_packages() -> None:
    for name in tuple(sys.modules):
        if name.partition(".")[0] in NEEDED_BY:
            del sys.modules[name]
