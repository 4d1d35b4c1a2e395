"""A process that has imported torch and forks a launcher for each command of a rehearsal.

Started by `warm_launchers.py` as a program of its own. A launcher finds what a Python of its own
would have: session, descriptors, environment, arguments. It then forks its fork server, as always.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ...workers.forkserver.descriptors import close_all_but, open_descriptors, unshareable
from ...workers.forkserver.messages import Gone, receive, send
from ...workers.forkserver.prctl import die_with
from ...workers.forkserver.process_title import rewrite_title
from ...workers.forkserver.threads import num_stray_threads
from ...workers.process_end import flush_streams

_CLONE_NEWNET = 0x40000000
_OF_EVERY_LAUNCHER = ("...agent.node_agent",)
_OF_EVERY_RUN = ("...training.run", "torch._dynamo")
"""torch imports the second with the first optimizer, in each rank."""


def main(console: Callable[[], None], fd: str, uses_run: str) -> NoReturn:
    """Import, report whether a fork is safe, then answer until the rehearsal is gone.

    Args:
        console: the command, as a process of its own calls it.
        fd: a socket, inherited.
        uses_run: "1": the script trains with `Run`.
    """
    with socket.socket(fileno=int(fd)) as channel:
        try:
            send(channel, {"unsafe": _prepare(uses_run == "1", channel.fileno())})
            while True:
                _answer(channel, console)
        except Gone:
            os._exit(0)


def _prepare(uses_run: bool, channel: int) -> str | None:
    """Import what launchers and ranks need; return why a fork is not safe then, or None."""
    gc.disable()
    for name in (*_OF_EVERY_LAUNCHER, *(_OF_EVERY_RUN if uses_run else ())):
        importlib.import_module(name, __package__)
    gc.freeze()
    gc.enable()
    if num_stray := num_stray_threads():
        return f"import torch left {num_stray} thread(s) running"
    opened = {fd: target for fd, target in open_descriptors().items() if fd != channel}
    return unshareable(opened)


def _answer(channel: socket.socket, console: Callable[[], None]) -> None:
    """Answer one request: a launcher to start, or the status of one that has ended.

    Raises:
        Gone: the rehearsal has ended.
    """
    message, fds = receive(channel, None)
    if "reap" in message:
        send(channel, {"status": os.waitpid(message["reap"], 0)[1]})
        return
    try:
        server = os.getpid()
        flush_streams()
        pid = os.fork()
    except OSError as error:
        send(channel, {"error": f"cannot fork ({error.strerror})"})
        return
    if pid == 0:
        _become_launcher(console, server, message, fds[0])
    os.close(fds[0])
    send(channel, {"pid": pid})


def _become_launcher(
    console: Callable[[], None], server: int, message: Mapping[str, Any], output: int
) -> NoReturn:
    """Run the command as a process of its own would; never returns."""
    try:
        os.setsid()
        die_with(server)
        devnull = os.open(os.devnull, os.O_RDONLY)
        for source, fd in ((devnull, 0), (output, 1), (output, 2)):
            os.dup2(source, fd)
        close_all_but(())
        if (network := message["network"]) is not None:
            _enter_network(network)
        _take_environment(message["environ"], message["words"])
        console()
    except SystemExit as leaving:
        code = leaving.code
        os._exit(code if isinstance(code, int) else 1)
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _enter_network(path: str) -> None:
    """Go into another network namespace, as `nsenter --net` does; os.setns is of Python 3.12.

    Raises:
        OSError: it is not there, or there is no right to it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)


def _take_environment(environ: Mapping[str, str], words: Sequence[str]) -> None:
    os.environ.clear()
    os.environ.update(environ)
    rewrite_title((sys.executable, *words), environ)
    sys.argv = ["-c", *words]
    tempfile.tempdir = None  # an import may have asked where it is
