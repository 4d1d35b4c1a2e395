"""The launcher's output in a file, from which a worker of Ray prints it.

No pipe: where Ray kills the worker, the ranks still print while they save.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from ...run_folder.plain_files import open_plain
from ...terminal.console import write

TAIL_LINES = 20
_BLOCK_BYTES = 1 << 16


class Output:
    """A file that the launcher appends to, and that is read as it grows."""

    def __init__(self, path: Path) -> None:
        """Open the file, which keeps what earlier starts have printed, or create it.

        Raises:
            OSError: From the disk.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.fd = open_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        self._read_bytes = os.fstat(self.fd).st_size
        self._rest = b""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def pass_on(self, fd: int) -> None:
        """Print what is new."""
        while block := os.pread(self.fd, _BLOCK_BYTES, self._read_bytes):
            self._read_bytes += len(block)
            write(fd, block)
            *whole, self._rest = (self._rest + block).split(b"\n")
            self._tail.extend(line.decode(errors="replace") for line in whole)

    def tail(self) -> list[str]:
        """Return the last lines that were passed on."""
        rest = [self._rest.decode(errors="replace")] if self._rest else []
        return [*self._tail, *rest][-TAIL_LINES:]

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)
