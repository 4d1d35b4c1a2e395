"""Where the ranks' output goes.

Rank 0 writes to the launcher's own stdout and stderr. The others write to one file each when there
is a folder for logs, else to the console with "[rank 3] " before each line.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from . import console
from .worker import WorkerStreams

MAX_LINE_BYTES = 65536
"""A longer line is shown in pieces."""

_ATTEMPT = re.compile(r"attempt-(\d+)")


class RankOutput(Protocol):
    """The output of the ranks of one attempt."""

    def streams(self, rank: int) -> AbstractContextManager[WorkerStreams]:
        """Return a rank's streams; the launcher's ends are closed when the block ends."""

    def log_path(self, rank: int) -> Path | None:
        """Return the file that has what the rank wrote, or None when the console showed it."""

    def finish(self, bound_s: float) -> None:
        """Show what is still on its way; waits at most `bound_s` seconds for it."""


class LogFiles:
    """One file for each rank after rank 0."""

    def __init__(self, log_dir: Path) -> None:
        names = [path.name for path in log_dir.iterdir()] if log_dir.is_dir() else []
        self.folder = log_dir / f"attempt-{next_attempt(names)}"
        self.folder.mkdir(parents=True)

    @contextmanager
    def streams(self, rank: int) -> Iterator[WorkerStreams]:
        """See RankOutput."""
        path = self.log_path(rank)
        if path is None:
            yield WorkerStreams()
            return
        with path.open("ab", buffering=0) as file:
            yield WorkerStreams(stdout=file, stderr=file)

    def log_path(self, rank: int) -> Path | None:
        """See RankOutput."""
        return None if rank == 0 else self.folder / f"rank-{rank}.log"

    def finish(self, bound_s: float) -> None:
        """See RankOutput."""


class PrefixedConsole:
    """The console for all ranks; a thread for each stream puts the rank before its lines."""

    def __init__(self) -> None:
        self._readers: list[threading.Thread] = []

    @contextmanager
    def streams(self, rank: int) -> Iterator[WorkerStreams]:
        """See RankOutput."""
        if rank == 0:
            yield WorkerStreams()
            return
        prefix = f"[rank {rank}] ".encode()
        stdout, stderr = (
            self._pipe(console.STDOUT_FD, prefix),
            self._pipe(console.STDERR_FD, prefix),
        )
        try:
            yield WorkerStreams(stdout=stdout, stderr=stderr)
        finally:
            os.close(stdout)
            os.close(stderr)

    def log_path(self, rank: int) -> Path | None:
        """See RankOutput."""
        return None

    def finish(self, bound_s: float) -> None:
        """See RankOutput."""
        for reader in self._readers:
            reader.join(timeout=bound_s / len(self._readers))

    def _pipe(self, fd: int, prefix: bytes) -> int:
        read_end, write_end = os.pipe()
        # A daemon: a blocked console must not keep the launcher from leaving.
        reader = threading.Thread(target=_copy, args=(read_end, fd, prefix), daemon=True)
        reader.start()
        self._readers.append(reader)
        return write_end


class LineSplitter:
    """Cuts a stream of bytes into lines; what is not text passes through unchanged."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that are complete now, each with its end."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        done = [line + b"\n" for line in lines]
        if len(self._rest) >= self._max_line_bytes:
            done.append(self.flush())
        return done

    def flush(self) -> bytes:
        """Return what has no end yet as a line, or nothing."""
        rest, self._rest = self._rest, b""
        return rest + b"\n" if rest else b""


def next_attempt(names: Iterable[str]) -> int:
    """Return the number after the highest `attempt-K` among the names; 0 for the first."""
    taken = [int(match[1]) for name in names if (match := _ATTEMPT.fullmatch(name))]
    return max(taken, default=-1) + 1


def last_lines(path: Path, count: int, max_bytes: int = 65536) -> list[str]:
    """Return the last lines of a file, however large; none when it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return text.splitlines()[-count:]


def _copy(
    read_end: int,
    fd: int,
    prefix: bytes,
    write: Callable[[int, bytes], None] = console.write,
) -> None:
    splitter = LineSplitter()
    with contextlib.suppress(OSError):
        while chunk := os.read(read_end, 65536):
            write(fd, b"".join(prefix + line for line in splitter.feed(chunk)))
    if rest := splitter.flush():
        write(fd, prefix + rest)
    os.close(read_end)
