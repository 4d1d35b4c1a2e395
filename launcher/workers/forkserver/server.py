"""The fork server's own process: it imports once, then forks a rank for each request.

It is forked from the launcher, right after that has imported torch and before it has started any
thread, so that one import serves the launcher and all ranks of all attempts.
"""

# Note: ranks are forks of one process that has imported torch
#
# Importing torch takes a second or two in each rank, and as many again at each restart. Here it is
# done once: the launcher imports it, forks this server before it has any other thread, and the
# server forks a rank for each request. A rank then starts in milliseconds, and shares the imported
# pages.
#
# A fork copies one thread only. A lock that another thread held stays locked in the copy, so a fork
# is safe only where there is no other thread: torch's import starts none, --preload may. The server
# looks (threads.py) and says why it cannot be used; the ranks then start cold, by an exec. The same
# holds for an accelerator that is in use (CUDA does not survive a fork) and for a module beside the
# script that would be imported in place of one that was preloaded (eligibility.py).
#
# What must be new in each rank is made so in child.py: session and process group, descriptors,
# environment, signal handlers, the random state that libraries draw at import, the text that `ps`
# shows, __main__ and sys.path. A test compares a warm rank with a cold one, name by name.
#
# Who is whose parent: the server forks the ranks of one attempt through an intermediate process
# that ends at once, so that they become children of the launcher (which has asked the kernel for
# orphans). It gets their exit codes as if it had started them itself, and the server may die
# without harm to them. Each rank waits for a byte from the launcher before it begins: by then the
# launcher knows its process id, and nothing can run that nobody watches.

import gc
import importlib
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from ...errors import UsageError
from ...plan.python_command import PythonProgram, parse_python_command
from ...plan.shadowing import NEEDED_BY
from ..exit_handlers import mapped_files
from ..process_end import flush_streams
from .child import RankStart, become_rank, reset_signals
from .descriptors import close_all_but, open_descriptors, unshareable
from .drawn_at_import import DrawnAtImport
from .eligibility import module_names, shadowed_modules
from .main_module import script_folder
from .messages import Gone, receive, send
from .prctl import die_with, set_name
from .threads import num_stray_threads

SHIELDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Sent to everyone by a terminal or a batch system; the server has to outlive them."""

_OF_EVERY_RANK = ("multiprocessing.forkserver", "runpy")
"""What shields loader workers needs these: once here, and not in each rank."""

_COMPILER = "torch._dynamo"
"""DistributedDataParallel, fully_shard and DeepSpeed import it, compiled or not: half a second."""


@dataclass(frozen=True, kw_only=True)
class Warmth:
    """What a server is for."""

    program: PythonProgram
    preload: tuple[str, ...]
    uses_run: bool
    """The script imports `launcher`."""
    imports_compiler: bool = False
    """Building the model will import torch's compiler in each rank; here it is done once."""
    opened: frozenset[int]
    """Descriptors that the import of torch has left open."""
    holds_interrupt: bool = False
    """A SIGINT waits in each rank for `Run.start`."""


def serve(warmth: Warmth, channel: socket.socket) -> NoReturn:
    """Prepare, say whether that went well, then answer requests until the launcher is gone."""
    launcher = os.getppid()
    signal_mask = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
    reset_signals()
    os.setsid()
    die_with(launcher)
    set_name("relaunch-warm")
    close_all_but({channel.fileno(), *warmth.opened})
    try:
        draws = DrawnAtImport()
        import_ours(warmth, draws)
        libraries = mapped_files()
        unsafe = prepare(warmth, draws)
        opened = {fd: at for fd, at in open_descriptors().items() if fd != channel.fileno()}
        send(channel, {"unsafe": unsafe or unshareable(opened)})
        held = {signal.SIGINT} if warmth.holds_interrupt else set()
        common = RankStart(
            launcher=launcher,
            program=warmth.program,
            signal_mask=frozenset(signal_mask | held),
            kept=frozenset(opened),
            draws=draws,
            keeps_our_packages=warmth.uses_run,
            libraries=libraries,
        )
        _fork_groups(channel, common)
    except UsageError as error:
        send(channel, {"wrong": str(error)})
    except Gone:
        os._exit(0)
    except BaseException as error:
        _last_words(channel, error)
    os._exit(1)


def import_ours(warmth: Warmth, draws: DrawnAtImport) -> None:
    """Import what our own part of the ranks will want, and what torch will import for it."""
    if warmth.uses_run:
        importlib.import_module("...training.run", __package__)
    for name in _OF_EVERY_RANK:
        importlib.import_module(name)
    if warmth.imports_compiler:
        with draws.watched():
            importlib.import_module(_COMPILER)


def prepare(warmth: Warmth, draws: DrawnAtImport) -> str | None:
    """Import what --preload names; return why a fork of this process is not safe, or None.

    What the imports of --preload draw is noted in `draws`.

    Raises:
        UsageError: There is no module of a name in --preload.
    """
    folder = os.getcwd() if warmth.program.is_module else script_folder(warmth.program.name)
    if not sys.flags.safe_path:
        sys.path[0] = folder  # a module to preload may stand beside the script
    reason = _threads_after("import torch")
    for name in warmth.preload:
        if reason is None:
            with draws.watched():
                reason = _preload(name) or _threads_after(f"import {name}")
    reason = reason or _accelerator_in_use() or _shadows(folder, keeps_ours=warmth.uses_run)
    flush_streams()  # or every rank would print what an import has printed
    gc.freeze()  # a collection in a rank must not write to every page that it shares
    return reason


def _preload(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"--preload {name}: there is no module {error.name}, neither beside the script nor "
                "among those installed."
            ) from None
        return f"--preload {name} failed with {error}"
    except Exception as error:
        return f"--preload {name} failed with {type(error).__name__}: {error}"
    return None


def _threads_after(cause: str) -> str | None:
    num_stray = num_stray_threads()
    if num_stray == 0:
        return None
    return f"{cause} left {num_stray} thread{'s' if num_stray > 1 else ''} running"


def _accelerator_in_use() -> str | None:
    torch = sys.modules.get("torch")
    for name in ("cuda", "xpu"):
        if torch is not None and getattr(torch, name).is_initialized():
            return f"an import has initialised torch.{name}"
    if torch is not None and torch.version.cuda is not None and _forks_badly(torch.cuda):
        return "an import has asked CUDA for its devices, and a fork cannot use CUDA after that"
    return None


def _forks_badly(cuda: ModuleType) -> bool:
    """Ask a fork. CUDA need not be initialised for that: to count the devices is enough."""
    pid = os.fork()
    if pid == 0:
        os._exit(int(cuda._is_in_bad_fork()))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0


def _shadows(folder: str, *, keeps_ours: bool) -> str | None:
    loaded = {
        name: getattr(module, "__file__", None)
        for name, module in tuple(sys.modules.items())
        if "." not in name and (keeps_ours or name not in NEEDED_BY)
    }
    try:
        entries = tuple(Path(folder).iterdir())
    except OSError:
        return None
    packages = [path.name for path in entries if (path / "__init__.py").is_file()]
    beside = module_names([path.name for path in entries], packages)
    return shadowed_modules(beside, loaded, f"{folder}{os.sep}")


def _fork_groups(channel: socket.socket, common: RankStart) -> NoReturn:
    """Have a process of its own ready for each attempt: nobody waits for its fork."""
    server = os.getpid()
    while True:
        if (pid := os.fork()) == 0:
            die_with(server)
            _fork_group(channel, common)
        if os.waitpid(pid, 0)[1] != 0:
            os._exit(1)
        send(channel, {"adopted": True})


def _fork_group(channel: socket.socket, common: RankStart) -> NoReturn:
    """Fork the ranks of one attempt, then end, so that they become the launcher's children.

    The launcher then waits for them as for any child, its death reaches them, and their
    os.getppid() is the launcher.
    """
    while True:
        message, fds = receive(channel, None)
        if "release" in message:
            os._exit(0)
        command = message["command"]
        start = replace(
            common,
            program=parse_python_command(command, sys.executable) or common.program,
            command=command,
            environment=message["environment"],
        )
        send(channel, _fork_rank(start, fds))
        for fd in fds:
            os.close(fd)


def _fork_rank(start: RankStart, fds: Sequence[int]) -> dict[str, Any]:
    try:
        pid = os.fork()
    except OSError as error:
        return {"error": f"cannot fork ({error.strerror})"}
    if pid > 0:
        return {"pid": pid}
    try:
        become_rank(start, fds[:3], go=fds[3])
    except BaseException as error:
        os.write(2, f"relaunch: a rank could not be set up: {error!r}\n".encode())
        os._exit(1)


def _last_words(channel: socket.socket, error: BaseException) -> None:
    try:
        send(channel, {"unsafe": f"it failed with {error!r}", "error": repr(error)})
    except Gone:
        return
