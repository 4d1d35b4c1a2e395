"""Launchers forked from servers that have imported torch, so that a command starts in moments."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from checkpointing.readable import readable

from ...contract.environment import default_environment
from ...terminal.console import say
from ...workers import exec_worker
from ...workers.forkserver.eligibility import other_variables
from ...workers.forkserver.messages import Gone, receive, send
from .run_trial import LauncherProcess, Trial, environ_of, start_trial, words_of

Start = Callable[[Trial], LauncherProcess]
_READY_S = 120.0
_ANSWER_S = 30.0
_ROOM = 4096
"""Bytes for the environment that a forked launcher and its ranks show in /proc."""
_ROOM_NAME = "REHEARSAL_ROOM"
_SERVER_START = (
    "import os, sys; "
    "sys.flags.safe_path or sys.path.__setitem__(0, os.path.dirname(sys.executable)); "
    "from launcher.cli import console; "
    "from launcher.commands.trials.launcher_server import main; main(console, *sys.argv[1:])"
)


class WarmProcess:
    """A launcher that a server has forked; it is the server's child, and is used as a `Popen`."""

    def __init__(self, pid: int, server: _Server) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return the exit code, or minus the signal that ended it; None while it runs."""
        if self.returncode is None and readable([self._pidfd], 0):
            self.returncode = self._server.reap(self.pid)
            os.close(self._pidfd)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Wait for its end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        if self.returncode is None:
            readable([self._pidfd], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("relaunch", timeout)
        return code


@contextmanager
def warm_starts(
    like: Trial, *, uses_run: bool, own: Collection[str] = (), num_servers: int = 1
) -> Iterator[Start]:
    """Give a function that starts commands, warm where that can be; the servers end with the block.

    Args:
        like: a command as most will be: the imports run under its environment.
        uses_run: the script trains with `Run`.
        own: variables that each command has of its own, and that no import reads.
        num_servers: each start takes the next one: with two, no two commands in a row have the same
            hash seed and addresses.
    """
    if is_cold(like.words):
        yield start_trial
        return
    launchers = _WarmLaunchers(like, uses_run=uses_run, own=own, num_servers=num_servers)
    try:
        yield launchers.start
    finally:
        launchers.close()


class _WarmLaunchers:
    """Starts commands warm where that changes nothing for them, else as `start_trial` does."""

    def __init__(
        self, like: Trial, *, uses_run: bool, own: Collection[str], num_servers: int
    ) -> None:
        """Start the servers; their imports run beside what follows."""
        self._own = frozenset(own)
        self._at_import = self._variables(like)
        self._servers = [_Server(self._at_import, uses_run=uses_run) for _ in range(num_servers)]

    def start(self, trial: Trial) -> LauncherProcess:
        """Start a command, in a session of its own; it ends when this process does.

        Raises:
            OSError: its folder cannot be written.
        """
        if (
            not is_cold(trial.words)
            and other_variables(self._variables(trial), self._at_import) is None
        ):
            while self._servers:
                server = self._servers.pop(0)
                try:
                    process = server.start(trial)
                except Gone as reason:
                    say(f"no launcher can be forked ({reason}): starts take longer from now on.")
                else:
                    self._servers.append(server)
                    return process
                server.close()
        return start_trial(trial)

    def close(self) -> None:
        """End the servers, and launchers that still run."""
        for server in self._servers:
            server.close()
        self._servers = []

    def _variables(self, trial: Trial) -> dict[str, str]:
        """Return the environment under which a command imports torch."""
        wanted = {**default_environment(trial.ranks), **environ_of(trial, os.environ)}
        return {name: value for name, value in wanted.items() if name not in self._own}


class _Server:
    """The rehearsal's end of one `launcher_server`."""

    def __init__(self, environ: Mapping[str, str], *, uses_run: bool) -> None:
        self._is_ready = False
        ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", exec_worker.__file__, str(os.getpid())),
                    *(sys.executable, "-c", _SERVER_START, str(fd), str(int(uses_run))),
                ],
                env={**environ, _ROOM_NAME: "." * _ROOM},
                pass_fds=(fd,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._channel = ours

    def start(self, trial: Trial) -> WarmProcess:
        """Fork a launcher.

        Raises:
            Gone: this server cannot.
            OSError: the trial's folder cannot be written.
        """
        if not self._is_ready:
            if (unsafe := receive(self._channel, _READY_S)[0]["unsafe"]) is not None:
                raise Gone(unsafe)
            self._is_ready = True
        trial.folder.mkdir(parents=True, exist_ok=True)
        request = {
            "words": words_of(trial),
            "environ": environ_of(trial, os.environ),
            "network": trial.network,
        }
        with trial.output.open("ab") as log:
            answer = self._ask(request, [log.fileno()])
        if "error" in answer:
            raise Gone(answer["error"])
        return WarmProcess(answer["pid"], self)

    def reap(self, pid: int) -> int:
        """Return the exit code of a launcher that has ended."""
        try:
            return os.waitstatus_to_exitcode(self._ask({"reap": pid})["status"])
        except Gone:
            return -signal.SIGKILL  # its launchers end with it

    def close(self) -> None:
        """End it."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, request: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        send(self._channel, request, fds)
        return receive(self._channel, _ANSWER_S)[0]


def is_cold(words: Sequence[str]) -> bool:
    """Return whether a command asks for a Python of its own for each rank. Pure."""
    return "--cold" in words
