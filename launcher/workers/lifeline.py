"""The launcher's end of the pipe whose closing tells the guardian that the launcher is gone."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..contract.environment import RUN_ID
from ..errors import StartError
from . import guardian
from .worker import wait_for_end

_SHIELDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


_END_S = 3.0
"""How long the guardian may take to clean up."""


class Lifeline:
    """Nothing that this run starts outlives it, however the launcher ends.

    Besides the guardian each rank carries a parent-death signal; the guardian adds what that
    cannot reach: the ranks' own children.
    """

    def __init__(self, run_id: str, scratch: Path, process: subprocess.Popen[bytes]) -> None:
        self.run_id = run_id
        self.scratch = scratch
        """A folder for this run's small files, gone with the run."""
        self._process = process

    @classmethod
    @contextmanager
    def hold(cls) -> Iterator["Lifeline"]:
        """Start the guardian; at the end of the block let it clean up and wait for it.

        Raises:
            StartError: There is no place for temporary files.
        """
        run_id = uuid.uuid4().hex
        try:
            scratch = Path(tempfile.mkdtemp(prefix="relaunch-"))
        except OSError as error:
            raise StartError(
                f"no temporary file can be written ({error}). Set TMPDIR to a folder with space."
            ) from None
        command = [sys.executable, "-I", "-S", guardian.__file__, _mark(run_id), str(scratch)]
        # Blocked signals survive the exec: the guardian must outlive those sent to everyone.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SHIELDED)
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        lifeline = cls(run_id, scratch, process)
        try:
            yield lifeline
        finally:
            lifeline._close()

    def add(self, pid: int) -> None:
        """Name a rank's process group, right after the rank was started."""
        self._write(f"+{pid}\n")

    def remove(self, pid: int) -> None:
        """Forget a group that is gone, before its number can belong to someone else."""
        self._write(f"-{pid}\n")

    def sweep(self) -> list[int]:
        """Kill what carries this run's mark; returns what would not die."""
        return guardian.sweep(_mark(self.run_id))

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        # Without the guardian the parent-death signal still holds: not worth stopping a run for.
        with contextlib.suppress(OSError):
            os.write(self._process.stdin.fileno(), line.encode())

    def _close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        wait_for_end(self._process.pid, _END_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_END_S)


def _mark(run_id: str) -> str:
    """Return what every process of the run has in its environment."""
    return f"{RUN_ID}={run_id}"
