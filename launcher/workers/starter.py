"""How ranks are started: warm as long as that works, cold from then on."""

import sys
from collections.abc import Callable, Mapping, Sequence

from ..plan.program import for_local_rank
from ..plan.python_command import parse_python_command, why_not_source, why_other_python
from .forkserver.client import ForkServer, ForkServerUnavailableError
from .forkserver.server import Warmth
from .worker import Worker, WorkerStreams


class Starter:
    """Starts the ranks of all attempts; says it once when they are no longer warm."""

    def __init__(
        self, command: Sequence[str], say: Callable[[str], None], *, holds_interrupt: bool
    ) -> None:
        """Remember what every rank runs.

        Args:
            command: as words to execute.
            say: prints a sentence.
            holds_interrupt: a SIGINT waits in each rank for `Run.start`. Python's own handler
                would end the imports with a traceback.
        """
        self._command = tuple(command)
        self._holds_interrupt = holds_interrupt
        self._say = say
        self._server: ForkServer | None = None

    def warm_up(
        self,
        *,
        preload: tuple[str, ...],
        uses_run: bool,
        imports_compiler: bool,
        at_import: Mapping[str, str],
        opened: frozenset[int],
        given_up: Callable[[], bool],
    ) -> None:
        """Fork the server and wait until it is ready; nothing to do for what is not Python.

        Called once, when this process has imported torch and before it starts a thread.

        Args:
            preload: Modules to import in the server.
            uses_run: The script imports `launcher`.
            imports_compiler: Its ranks will import torch's compiler.
            at_import: The environment under which torch was imported.
            opened: Descriptors that the import of torch has left open.
            given_up: Asked while waiting; True: no rank will be started.
        """
        program = parse_python_command(self._command, sys.executable)
        try:
            if (reason := why_other_python(self._command, sys.executable)) is not None:
                raise ForkServerUnavailableError(reason)
            if program is None:
                return
            if (reason := why_not_source(program)) is not None:
                raise ForkServerUnavailableError(reason)
            warmth = Warmth(
                program=program,
                preload=preload,
                uses_run=uses_run,
                imports_compiler=imports_compiler,
                opened=opened,
                holds_interrupt=self._holds_interrupt,
            )
            self._server = ForkServer.fork(warmth, at_import)
            self._server.wait_until_ready(given_up)
        except ForkServerUnavailableError as reason:
            self._go_cold(reason)

    def start(
        self,
        environment: Mapping[str, str],
        streams: WorkerStreams,
        *,
        rank: int,
        local_rank: int,
    ) -> Worker:
        """Start one rank; called on the main thread only.

        Raises:
            OSError: There cannot be another process.
        """
        command = for_local_rank(self._command, local_rank)
        if self._server is not None:
            try:
                process = self._server.start(
                    command, environment, streams, inherits_stdin=rank == 0
                )
                return Worker(rank, local_rank, process)
            except ForkServerUnavailableError as reason:
                self._go_cold(reason)
        return Worker.start(
            command,
            environment,
            streams,
            rank=rank,
            local_rank=local_rank,
            holds_interrupt=self._holds_interrupt,
        )

    def all_started(self) -> None:
        """Let forked ranks begin; called once the launcher knows the ranks of an attempt."""
        if self._server is not None:
            try:
                self._server.release()
            except ForkServerUnavailableError as reason:
                self._go_cold(reason)

    def finish(self) -> None:
        """Start no more ranks: the server ends while others do. `close` follows."""
        if self._server is not None:
            self._server.kill()

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _go_cold(self, reason: ForkServerUnavailableError) -> None:
        if self._server is not None:
            self._server.close()
        self._say(f"{reason}. Each rank imports torch by itself from now on, as with --cold.")
        self._server = None
