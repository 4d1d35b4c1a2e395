"""Reading a file of JSON lines from either end, a block at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..plain_files import open_plain
from .fields import IsRecord, Record, parse, parse_all

BLOCK_BYTES = 1 << 16


class Lines:
    """The records of one file, oldest first, or newest first by `reversed`.

    What is no record is left out, and counted while it is passed.
    """

    def __init__(self, path: Path, is_record: IsRecord, *, having: Sequence[bytes] = ()) -> None:
        """Nothing is read yet.

        Args:
            path: of the file, which need not exist.
            is_record: tells whether an object is one of the file's records.
            having: only lines that contain one of these are looked at; all, if empty.
        """
        self._path = path
        self._is_record = is_record
        self._having = having
        self.skipped = 0
        """Lines that were no records, of those that were passed."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield them, oldest first.

        Raises:
            OSError: the file is there and cannot be read.
        """
        if (file := open_to_read(self._path)) is None:
            return
        with file:
            while lines := file.readlines(BLOCK_BYTES):
                yield from self.records(lines)

    def __reversed__(self) -> Iterator[dict[str, Any]]:
        """Yield them, newest first; no more is read than is asked for.

        Raises:
            OSError: the file is there and cannot be read.
        """
        if (file := open_to_read(self._path)) is None:
            return
        with file:
            for _, line in lines_backwards(file):
                if (record := self.record(line)) is not None:
                    yield record

    def records(self, lines: list[bytes]) -> Iterator[dict[str, Any]]:
        """Yield the records of some lines: parsed together, they share the names of their fields.

        That takes half the time and memory. Where a line is damaged, each is parsed alone.
        """
        together = None if self._having else parse_all(lines)
        if together is not None and all(map(self._is_record, together)):
            yield from together
            return
        for line in lines:
            if (record := self.record(line)) is not None:
                yield record

    def record(self, line: bytes) -> dict[str, Any] | None:
        """Return the record of a line; None, counted unless it is blank, where it holds none."""
        if (self._having and not any(word in line for word in self._having)) or line.isspace():
            return None
        found = parse(line)
        if found is not None and self._is_record(found):
            return found
        self.skipped += bool(line)
        return None


def open_to_read(path: Path) -> BinaryIO | None:
    """Open a file; None where there is none.

    Raises:
        OSError: it is there and cannot be read, or is no regular file.
    """
    try:
        return os.fdopen(open_plain(path, os.O_RDONLY), "rb")
    except FileNotFoundError:
        return None


def lines_backwards(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines from the end, without their line ends, each with where it begins."""
    at = file.seek(0, os.SEEK_END)
    pieces: list[bytes] = []  # of the line whose begin is not reached yet, the last one first
    while at > 0:
        size = min(BLOCK_BYTES, at)
        at -= size
        file.seek(at)
        block = file.read(size)
        end = len(block)
        while (cut := block.rfind(b"\n", 0, end)) >= 0:
            pieces.append(block[cut + 1 : end])
            line = b"".join(reversed(pieces))
            if line:
                yield at + cut + 1, line
            pieces, end = [], cut
        pieces.append(block[:end])
    if line := b"".join(reversed(pieces)):
        yield 0, line


def newest(path: Path, is_record: IsRecord, most_bytes: int) -> tuple[list[Record], int]:
    """Return the newest records, oldest first, and how many lines between them were none.

    Args:
        path: of the file, which need not exist.
        is_record: tells whether an object is one of its records.
        most_bytes: from the end of the file; no more is read.

    Raises:
        OSError: the file is there and cannot be read.
    """
    found: list[Record] = []
    if (file := open_to_read(path)) is None:
        return found, 0
    lines = Lines(path, is_record)
    with file:
        least = file.seek(0, os.SEEK_END) - most_bytes
        for begin, line in lines_backwards(file):
            if begin < least:
                break
            if (record := lines.record(line)) is not None:
                found.append(record)
    found.reverse()
    return found, lines.skipped
