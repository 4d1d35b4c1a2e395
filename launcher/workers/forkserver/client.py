"""The launcher's end of the fork server: fork it, wait for it, ask it for ranks."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from checkpointing.readable import readable

from ...contract.preemption import signal_name
from ...errors import UsageError
from ..guardian import kill_group
from ..process_end import flush_streams
from ..worker import Process, WorkerStreams
from .eligibility import other_variables
from .forked_process import ForkedGroup
from .messages import Gone, receive, send
from .server import Warmth, serve
from .threads import num_stray_threads

READY_S = 120.0
"""How long the imports of --preload may take."""
ANSWER_S = 30.0
"""How long one fork may take, on a machine with much else to do."""
POLL_S = 0.05
LOOK_S = 1.0
"""How often a server that does not answer is looked at."""
END_S = 0.5
"""How long the end of a server that has closed its socket may take."""
STDIN_FD, STDOUT_FD, STDERR_FD = 0, 1, 2


class ForkServerUnavailableError(Exception):
    """A rank cannot be forked from the fork server; the text says why."""


class ForkServer:
    """A process that has imported what the ranks need, and forks them.

    It has no part in a rank's life after the fork: when it dies, the ranks live on.
    """

    def __init__(self, pid: int, channel: socket.socket, at_import: Mapping[str, str]) -> None:
        self.pid = pid
        self._channel = channel
        self._at_import = at_import
        self._group: ForkedGroup | None = None

    @classmethod
    def fork(cls, warmth: Warmth, at_import: Mapping[str, str]) -> "ForkServer":
        """Fork the server from this process, which has imported torch.

        Called on the main thread and before any other is started: a lock that another thread
        holds would stay locked in the fork.

        Raises:
            ForkServerUnavailableError: There are other threads, or there cannot be another process.
        """
        if (num_stray := num_stray_threads()) > 0:
            raise ForkServerUnavailableError(
                f"the launcher runs {num_stray} other thread(s) by now"
            )
        flush_streams()
        ours, theirs = socket.socketpair()
        try:
            pid = os.fork()
        except OSError as error:
            ours.close()
            theirs.close()
            raise ForkServerUnavailableError(
                f"the server cannot be forked ({error.strerror})"
            ) from None
        if pid == 0:
            _become_server(warmth, ours, theirs)
        theirs.close()
        return cls(pid, ours, at_import)

    def wait_until_ready(self, given_up: Callable[[], bool]) -> None:
        """Wait for the imports to end; called once.

        Args:
            given_up: Asked again and again; once it returns True nobody wants the server any more.

        Raises:
            ForkServerUnavailableError: What was imported makes forks unsafe, or it took too long.
            UsageError: There is no module of a name in --preload.
        """
        end = time.monotonic() + READY_S
        while not self._hears(POLL_S):
            if given_up():
                return
            if time.monotonic() > end:
                raise ForkServerUnavailableError(f"the imports took more than {READY_S:g} s")
        answer = self._answer(1.0)
        if "wrong" in answer:
            raise UsageError(answer["wrong"])
        if answer["unsafe"] is not None:
            raise ForkServerUnavailableError(str(answer["unsafe"]))

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        streams: WorkerStreams,
        *,
        inherits_stdin: bool,
    ) -> Process:
        """Fork a rank, which waits for `release`.

        Raises:
            ForkServerUnavailableError: The server cannot make this one; no rank is half started.
        """
        if (reason := other_variables(environment, self._at_import)) is not None:
            raise ForkServerUnavailableError(reason)
        if self._group is None:
            self._group = ForkedGroup()
        devnull = os.open(os.devnull, os.O_RDONLY)
        fds = [
            STDIN_FD if inherits_stdin else devnull,
            _fileno(streams.stdout, STDOUT_FD),
            _fileno(streams.stderr, STDERR_FD),
            self._group.wait_end,
        ]
        try:
            answer = self._ask({"command": command, "environment": dict(environment)}, fds)
        finally:
            os.close(devnull)
        if "error" in answer:
            raise ForkServerUnavailableError(f"the server failed: {answer['error']}")
        return self._group.add(int(answer["pid"]))

    def release(self) -> None:
        """Adopt the ranks that were forked since the last time and let them begin.

        Raises:
            ForkServerUnavailableError: The server is lost; `close` lets these ranks begin.
        """
        group = self._group
        if group is None:
            return
        self._ask({"release": True}, ())
        self._group = None
        group.begin(END_S)

    def kill(self) -> None:
        """Kill the server and whatever an import has started; `close` follows."""
        self._channel.close()
        kill_group(self.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the server and whatever an import has started; ranks that were forked live on."""
        self.kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        group, self._group = self._group, None
        if group is not None:
            group.begin(END_S)

    def _ask(self, request: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
        try:
            send(self._channel, request, fds)
        except Gone:
            raise ForkServerUnavailableError(self._why_gone("it ended")) from None
        return self._answer(ANSWER_S)

    def _answer(self, bound_s: float) -> dict[str, Any]:
        end = time.monotonic() + bound_s
        was_suspended = False
        while not self._hears(LOOK_S) and time.monotonic() < end:
            # Twice: when all that was suspended is woken up, this process may be the first.
            if is_suspended(self.pid) and was_suspended:
                raise ForkServerUnavailableError("the server is suspended (SIGSTOP)")
            was_suspended = is_suspended(self.pid)
        try:
            return receive(self._channel, max(0.0, end - time.monotonic()))[0]
        except Gone as gone:
            raise ForkServerUnavailableError(self._why_gone(str(gone))) from None

    def _hears(self, timeout_s: float) -> bool:
        return bool(readable([self._channel.fileno()], timeout_s))

    def _why_gone(self, seen: str) -> str:
        """Return what became of the server, as far as it can be known."""
        status = _end_status(self.pid, END_S)
        if status is None:
            return f"the server is lost: {seen}"
        if status < 0:
            return f"the server was killed by {signal_name(-status)}"
        return f"the server ended with exit code {status}"


def _become_server(warmth: Warmth, ours: socket.socket, theirs: socket.socket) -> NoReturn:
    ours.close()
    try:
        serve(warmth, theirs)
    finally:
        os._exit(1)  # whatever happens, this process never runs the launcher's own code


def is_suspended(pid: int) -> bool:
    """Return whether the process or a child of its own is stopped, as by SIGSTOP."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        children = []
    return any(_state(one) == "T" for one in (pid, *map(int, children)))


def _state(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[0]


def _fileno(stream: IO[bytes] | int | None, inherited: int) -> int:
    if stream is None:
        return inherited
    return stream if isinstance(stream, int) else stream.fileno()


def _end_status(pid: int, bound_s: float) -> int | None:
    """Return a child's exit code or minus its signal, without reaping it; None while it runs."""
    end = time.monotonic() + bound_s
    while time.monotonic() < end:
        seen = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if seen is not None:
            return seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status
        time.sleep(0.005)
    return None
