"""Reading what is new in a file of JSON lines that another process writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from .fields import IsRecord, Record
from .reading import Lines, lines_backwards, open_to_read

_REMEMBERED_BYTES = 256


class Follower:
    """Reads on where it was; of a file that is another, or was cut at its end, what is newer.

    Args:
        path: of the file, which need not exist.
        is_record: tells whether an object is one of its records.
        is_newer: tells whether a record is new, given the newest known; all are, if left out.
        having: only lines that contain one of these are looked at; all, if empty.
    """

    def __init__(
        self,
        path: Path,
        is_record: IsRecord,
        is_newer: Callable[[Record, Record], bool] = lambda record, than: True,
        *,
        having: Sequence[bytes] = (),
    ) -> None:
        self._path = path
        self._is_newer = is_newer
        self._lines = Lines(path, is_record, having=having)
        self._inode: int | None = None
        self._offset = 0
        self._tail = b""
        """What stood before the offset, to see whether it still does."""
        self._newest: Record | None = None

    @property
    def skipped(self) -> int:
        """Lines so far that were no records."""
        return self._lines.skipped

    def latest(
        self,
        is_last: Callable[[Record], bool],
        is_wanted: Callable[[Record], bool] = lambda record: True,
    ) -> list[dict[str, Any]]:
        """Return the newest records, back to the first for which `is_last`, which is among them.

        Called before `news`, which then returns what comes after them. No more is read than that.

        Args:
            is_last: tells where to stop.
            is_wanted: tells which of them are returned; the newest is in any case.

        Raises:
            OSError: the file is there and cannot be read.
        """
        return self._backwards(lambda record: False, is_last, is_wanted)

    def news(self) -> list[dict[str, Any]]:
        """Return the whole lines since the last call.

        Raises:
            OSError: the file is there and cannot be read.
        """
        if (file := open_to_read(self._path)) is None:
            return []
        with file:
            inode = os.fstat(file.fileno()).st_ino
            is_another = self._inode is not None and inode != self._inode
            file.seek(max(0, self._offset - len(self._tail)))
            if not is_another and file.read(len(self._tail)) == self._tail:
                self._inode = inode
                lines = self._whole_lines(file)
                found = [r for line in lines if (r := self._lines.record(line)) is not None]
                self._newest = found[-1] if found else self._newest
                return found
        than = self._newest
        return self._backwards(lambda record: than is not None and not self._is_newer(record, than))

    def _backwards(
        self,
        is_known: Callable[[Record], bool],
        is_last: Callable[[Record], bool] = lambda record: False,
        is_wanted: Callable[[Record], bool] = lambda record: True,
    ) -> list[dict[str, Any]]:
        """Return the records at the end of the file, and continue from there."""
        found: list[dict[str, Any]] = []
        if (file := open_to_read(self._path)) is None:
            return found
        with file:
            self._inode = os.fstat(file.fileno()).st_ino
            self._offset, self._tail = 0, b""
            for begin, line in lines_backwards(file):
                end = begin + len(line) + 1
                if not self._offset and end <= os.fstat(file.fileno()).st_size:
                    file_at = max(0, end - _REMEMBERED_BYTES)
                    self._offset, self._tail = end, os.pread(file.fileno(), end - file_at, file_at)
                if not self._offset:
                    continue  # not whole yet
                if (record := self._lines.record(line)) is None:
                    continue
                if is_known(record):
                    break
                if not found or is_wanted(record):
                    found.append(record)
                if is_last(record):
                    break
        found.reverse()
        self._newest = found[-1] if found else self._newest
        return found

    def _whole_lines(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the lines from where it was, but for one that is still being written."""
        file.seek(self._offset)
        for line in file:
            if line.endswith(b"\n"):
                self._offset += len(line)
                self._tail = (self._tail + line)[-_REMEMBERED_BYTES:]
                yield line


def is_newer_metric(record: Record, than: Record) -> bool:
    """Return whether a record of metrics.jsonl was written after another: a resume cuts the file.

    Of two attempts the later: the clock of its node may be behind.
    """
    mine, theirs = record.get("attempt", 0), than.get("attempt", 0)
    return bool(mine > theirs or (mine == theirs and record.get("time", 0) > than.get("time", 0)))
