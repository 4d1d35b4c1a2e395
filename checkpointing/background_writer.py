"""A rank's writer process, and the memory that the two share."""

import json
import mmap
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import SaveFailedError
from .strict_json import JSON

_ROOT = Path(__file__).resolve().parents[1]

# Without the site's packages and without the user's environment it starts in a few hundredths of
# a second. The path goes last, so that nothing beside this package hides the standard library.
_COMMAND = (
    *(sys.executable, "-S", "-E", "-s", "-c"),
    f"import sys; sys.path.append({str(_ROOT)!r}); "
    "from checkpointing.writer_process import serve; serve()",
)


class BackgroundWriter:
    """Writes one file at a time; started by the first, and again after it died.

    The memory has no name: however the two processes end, none of it is left behind.
    """

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        self._command = tuple(command)
        self._memory_fd = os.memfd_create("relaunch-staging")
        self._memory: mmap.mmap | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""

    def image(self, size_bytes: int) -> mmap.mmap:
        """Return shared memory of at least this size, its pages already there from the last time.

        Only while nothing is being written.

        Raises:
            OSError: There is not so much memory.
        """
        if self._memory is None or len(self._memory) < size_bytes:
            # Reserved here: a page that is missing later would end the process by SIGBUS.
            os.posix_fallocate(self._memory_fd, 0, size_bytes)
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
            self._memory = mmap.mmap(self._memory_fd, size_bytes, flags=flags)
        return self._memory

    def submit(self, path: Path, size_bytes: int, block_bytes: int) -> None:
        """Let the first bytes of the image be written to a new file.

        Raises:
            OSError: The process cannot be started.
            SaveFailedError: It died at once.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        request = {"path": str(path), "size_bytes": size_bytes, "block_bytes": block_bytes}
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise SaveFailedError(self._epitaph()) from error

    def receive(self, *, wait: bool) -> Mapping[str, JSON] | None:
        """Return {"value": CRC-32 of each block} or {"error": text}, once.

        Args:
            wait: Whether to wait for it; without, None means that it is still writing.
        """
        process = self._process
        if process is None:
            return {"error": "there is no writer process"}
        assert process.stdout is not None
        while not self._received.endswith(b"\n"):
            if not wait and not select.select([process.stdout], [], [], 0)[0]:
                return None
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                return {"error": self._epitaph()}
            self._received += part
        answer: Mapping[str, JSON] = json.loads(self._received)
        self._received = b""
        return answer

    def close(self) -> None:
        """End the process, whatever it does. Only what was committed stays a checkpoint."""
        if self._process is not None:
            self._process.kill()
            self._epitaph()
        if self._memory_fd >= 0:
            os.close(self._memory_fd)
            self._memory_fd, self._memory = -1, None

    def _start(self) -> None:
        self._received = b""
        self._process = subprocess.Popen(
            [*self._command, str(self._memory_fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._memory_fd,),
        )

    def _epitaph(self) -> str:
        """Bury a process that has ended or is about to; say how it ended."""
        assert self._process is not None
        process, self._process = self._process, None
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what was still to be told it, it will not miss
        status = process.wait()
        cause = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"the process that writes checkpoints {cause}"
