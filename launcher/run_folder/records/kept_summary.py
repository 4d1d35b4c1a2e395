"""The summary of a long metrics.jsonl, kept beside it: the next report reads only what is new.

It is used only where the file is the one that was read (its inode), is not shorter, and holds the
same bytes before the first new line. A resume cuts the file at its end, and the records that follow
have other times. In any other case the file is read whole. What is not detected: old lines edited
in place to the same length, in a file that grew afterwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from ..lines.fields import is_metric
from ..lines.reading import BLOCK_BYTES, Lines, open_to_read
from ..plain_files import replace_text
from .summary import MOST_GROUPS, RecordSummary

LEAST_BYTES = 1 << 20
"""No summary is written for fewer new ones: they are read in hundredths of a second."""
_TAIL_BYTES = 4096
_FORMAT = [1, MOST_GROUPS]
"""The first number changes with what a summary holds or how it is made."""


@dataclass(frozen=True, kw_only=True)
class _Covered:
    """The part of a file that a summary is of: its whole lines up to a place."""

    inode: int
    end_bytes: int
    tail_bytes: int
    tail_sha256: str
    """Of so many bytes before the end."""
    modified_ns: int
    """Of the file, when nothing had been written after that part."""
    num_no_records: int

    def is_begin_of(self, file: BinaryIO) -> bool:
        """Return whether the file begins with that part, as far as visible without reading it."""
        now = os.fstat(file.fileno())
        if now.st_ino != self.inode or now.st_size < self.end_bytes:
            return False
        if now.st_size == self.end_bytes and now.st_mtime_ns != self.modified_ns:
            return False  # edited in place
        begin = self.end_bytes - self.tail_bytes
        tail = os.pread(file.fileno(), self.tail_bytes, begin) if begin >= 0 else b""
        return sha256(tail).hexdigest() == self.tail_sha256


def kept_beside(metrics: Path) -> Path:
    """Return where the summary of a file of records is kept."""
    return metrics.with_name(f".{metrics.stem}-summary.json")


def summary_of(metrics: Path) -> tuple[RecordSummary, int]:
    """Return what the records of a file come to, and how many of its lines were no records.

    Args:
        metrics: the file, which need not exist.

    Raises:
        OSError: it is there and cannot be read. That the summary cannot be written is no error.
    """
    if (file := open_to_read(metrics)) is None:
        return RecordSummary(), 0
    with file:
        summary, covered = _kept(kept_beside(metrics), file) or (RecordSummary(), None)
        end = covered.end_bytes if covered else 0
        lines = Lines(metrics, is_metric)
        lines.skipped = covered.num_no_records if covered else 0
        tail, unfinished = b"", b""
        file.seek(end)
        while not unfinished and (block := file.readlines(BLOCK_BYTES)):
            unfinished = b"" if block[-1].endswith(b"\n") else block.pop()
            summary.add(lines.records(block))
            text = b"".join(block)
            end, tail = end + len(text), (tail + text)[-_TAIL_BYTES:]
        now = os.fstat(file.fileno())
        if end - (covered.end_bytes if covered else 0) >= LEAST_BYTES and now.st_size >= end:
            covered = _Covered(
                inode=now.st_ino,
                end_bytes=end,
                tail_bytes=len(tail),
                tail_sha256=sha256(tail).hexdigest(),
                modified_ns=now.st_mtime_ns,
                num_no_records=lines.skipped,
            )
            with suppress(OSError):  # another's folder, or a full disk: the next report reads more
                replace_text(kept_beside(metrics), _text(covered, summary.state()))
        summary.add(lines.records([unfinished] if unfinished else []))
    return summary, lines.skipped


def _text(covered: _Covered, state: Mapping[str, Any]) -> str:
    """Return the text of a kept summary: a checksum, and what it is of."""
    content = {"format": _FORMAT, "covered": asdict(covered), "summary": state}
    body = json.dumps(content, separators=(",", ":"))
    return f"{sha256(body.encode()).hexdigest()}\n{body}\n"


def _kept(path: Path, file: BinaryIO) -> tuple[RecordSummary, _Covered] | None:
    """Return the kept summary of a file's begin; None where there is none that is sure."""
    try:
        if (kept := open_to_read(path)) is None:
            return None
        with kept:
            checksum, _, body = kept.read().rstrip(b"\n").partition(b"\n")
        if sha256(body).hexdigest().encode() != checksum:
            return None
        content = json.loads(body)
        if content["format"] != _FORMAT:
            return None
        covered = _Covered(**content["covered"])
        if not covered.is_begin_of(file):
            return None
        return RecordSummary.from_state(content["summary"]), covered
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
