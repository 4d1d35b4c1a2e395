"""Carries the ranks' output to the console and into the log files.

Every rank writes into pipes. So neither a console that went away nor a full disk ever reaches a
rank, and the launcher has the last lines of each one for its report.
"""

import contextlib
import os
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...terminal import console
from ...workers.worker import WorkerStreams
from .console_policy import BOTH, STDERR, STDOUT, Share
from .line_splitter import LineSplitter, PieceHolder
from .log_folder import LogFolder

KEPT_LINES = 200
"""Of each rank, for the report: enough for the traceback above the last lines."""

_CONSOLE = {STDOUT: console.STDOUT_FD, STDERR: console.STDERR_FD}
_FILTERED = {STDOUT: "filtered_stdout.log", STDERR: "filtered_stderr.log"}


class RankOutput:
    """The output of the ranks of one attempt on this node."""

    def __init__(
        self,
        shares: Mapping[int, Share],
        logs: LogFolder | None,
        filters: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        """Take what was decided.

        Args:
            shares: What the console shows of each rank.
            logs: Where the output is written; None: nowhere.
            filters: Stream to the texts whose lines are copied to a file for that stream.
        """
        self._shares = shares
        self._logs = logs
        self._filters = {stream: [t.encode() for t in ts] for stream, ts in (filters or {}).items()}
        self._tails = {rank: deque[bytes](maxlen=KEPT_LINES) for rank in shares}
        self._errors = {rank: deque[bytes](maxlen=KEPT_LINES) for rank in shares}
        self._readers: list[threading.Thread] = []

    @contextmanager
    def streams(self, rank: int) -> Iterator[WorkerStreams]:
        """Return a rank's streams; the launcher's copies are closed when the block ends."""
        if self._logs is not None:
            self._logs.append(self._logs.rank_log(rank), b"")  # there even if it says nothing
        if self._shares[rank].streams or self._filters:
            stdout, stderr = self._pipe(rank, STDOUT), self._pipe(rank, STDERR)
        else:
            stdout = stderr = self._pipe(rank, BOTH)  # one pipe keeps the order of the two
        try:
            yield WorkerStreams(stdout=stdout, stderr=stderr)
        finally:
            for end in {stdout, stderr}:
                os.close(end)

    def log_path(self, rank: int) -> Path | None:
        """Return the file that has what the rank wrote, or None when there are no logs."""
        return None if self._logs is None else self._logs.rank_log(rank)

    def folder(self) -> Path | None:
        """Return the attempt's folder of logs, or None when there are no logs."""
        return None if self._logs is None else self._logs.path

    def was_shown_alone(self, rank: int) -> bool:
        """Return whether the console has the rank's errors, with no other rank's in between."""
        share = self._shares[rank]
        return bool(share.streams & STDERR) and share.alone

    def tail(self, rank: int) -> list[str]:
        """Return the last lines of a rank, at most KEPT_LINES."""
        return _texts(self._tails[rank])

    def errors(self, rank: int) -> list[str]:
        """Return the last lines of a rank's stderr, in which no line of its stdout stands.

        Where both are one stream, in the order in which they were written, these are of both.
        """
        return _texts(self._errors[rank])

    def finish(self, bound_s: float) -> None:
        """Show what is still on its way; waits at most `bound_s` seconds for it."""
        end = time.monotonic() + bound_s
        for reader in self._readers:
            reader.join(timeout=max(0.0, end - time.monotonic()))
        if self._logs is not None:
            self._logs.close()

    def _pipe(self, rank: int, stream: int) -> int:
        share = self._shares[rank]
        console_fd = _CONSOLE[stream] if share.streams & stream and stream != BOTH else None
        as_it_comes = console_fd is not None and not share.prefix
        is_terminal = as_it_comes and console_fd is not None and console.is_screen(console_fd)
        read_end, write_end = _terminal(console_fd or 0) if is_terminal else os.pipe()
        # A daemon: a blocked console must not keep the launcher from leaving.
        reader = threading.Thread(
            target=_copy, args=(read_end, self._sinks(rank, stream, console_fd)), daemon=True
        )
        reader.start()
        self._readers.append(reader)
        return write_end

    def _sinks(self, rank: int, stream: int, console_fd: int | None) -> "_Sinks":
        prefix = self._shares[rank].prefix.encode()
        holder = None if self._shares[rank].alone else PieceHolder()
        kept = [self._tails[rank], *([self._errors[rank]] if stream & STDERR else [])]
        logs, filters = self._logs, self._filters.get(stream, [])

        def take_lines(lines: list[bytes]) -> None:
            for last in kept:
                last.extend(lines)
            if console_fd is not None and prefix:
                console.write(console_fd, b"".join(prefix + line for line in lines))
            if logs is not None:
                logs.append(logs.rank_log(rank), b"".join(lines))
                matching = [line for line in lines if any(text in line for text in filters)]
                if matching:
                    logs.append(logs.path / _FILTERED[stream], b"".join(matching))

        def take_bytes(data: bytes) -> None:
            if console_fd is not None and not prefix:
                console.write(console_fd, data if holder is None else holder.feed(data))

        return take_bytes, take_lines


_Sinks = tuple[Callable[[bytes], None], Callable[[list[bytes]], None]]


def _texts(lines: Iterable[bytes]) -> list[str]:
    texts = (line.decode(errors="replace").rstrip("\r\n") for line in tuple(lines))
    return [text.rpartition("\r")[2] for text in texts]  # of a progress bar, what it showed last


def _copy(read_end: int, sinks: _Sinks) -> None:
    take_bytes, take_lines = sinks
    splitter = LineSplitter()
    with contextlib.suppress(OSError):  # EIO: the end of a terminal's stream
        while chunk := os.read(read_end, 65536):
            take_bytes(chunk)
            if lines := splitter.feed(chunk):
                take_lines(lines)
    take_bytes(b"")
    if rest := splitter.flush():
        take_lines([rest])
    os.close(read_end)


def _terminal(like: int) -> tuple[int, int]:
    """Return the ends of a pseudo-terminal, so that a progress bar still finds a terminal."""
    read_end, write_end = os.openpty()
    tty.setraw(write_end)
    with contextlib.suppress(OSError):
        columns, lines = os.get_terminal_size(like)
        termios.tcsetwinsize(write_end, (lines, columns))
    return read_end, write_end
