"""Appending to a file of JSON lines: at once or, where the disk does not let it, later.

The training is worth more than its records. After the start no error of these files reaches it.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..lost_work import LostWork, lost_work
from ..plain_files import open_plain, write_all
from ..tables import plural
from .fields import is_metric
from .reading import Lines, lines_backwards, open_to_read

KEPT_BYTES = 1 << 20
"""Of lines that wait for the disk; the oldest are dropped."""
_AT_ONCE_BYTES = 1 << 14
"""Of them, so that a disk with a little room takes some."""


def line_of(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line."""
    return json.dumps(record).encode() + b"\n"


def append_lines(path: Path, data: bytes) -> bool:
    """Add whole lines to the end of a file, all of them or none; return whether it was empty.

    Raises:
        OSError: they could not be written.
    """
    fd = open_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        end = os.fstat(fd).st_size
        # A kill may have cut the last line off; what follows must not become part of it.
        lead = b"" if end == 0 or os.pread(fd, 1, end - 1) == b"\n" else b"\n"
        try:
            write_all(fd, lead + data)
        except OSError:
            with suppress(OSError):
                # A full disk takes a part of a line; behind it another process may have written.
                if os.lseek(fd, 0, os.SEEK_CUR) == os.fstat(fd).st_size:
                    os.ftruncate(fd, end)
            raise
    finally:
        os.close(fd)  # raises where a network's disk was found full only now
    return end == 0


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A line that the disk has not taken."""

    data: bytes
    step: int | None


class LineFile:
    """One file of a run folder, written by this process; what goes wrong is reported once.

    Args:
        path: of the file.
        warn: takes a sentence.
        remade: called when what was written had gone, with its folder, and the file is new.
        is_ours: asked before lines are written that have waited: another run may have taken the
            folder meanwhile.
    """

    def __init__(
        self,
        path: Path,
        *,
        warn: Callable[[str], None],
        remade: Callable[[], None] = lambda: None,
        is_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        self._path = path
        self._warn = warn
        self._remade = remade
        self._is_ours = is_ours
        self._is_taken = False
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._num_dropped = 0
        self._cut_after: int | None = None
        """The step after which records are still to be dropped."""
        self._has_failed = False
        self._has_lines = False

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record behind those that wait; keep it where the disk does not take it."""
        if self._has_lost_the_folder():
            return
        step = record.get("step")
        self._keep(_Waiting(data=line_of(record), step=step if isinstance(step, int) else None))
        try:
            self._write()
        except OSError as error:
            self._failed(error)
        else:
            self._worked()

    def close(self) -> None:
        """Write what waits, a last time; report how much is lost."""
        if not self._waiting or self._has_lost_the_folder():
            return
        try:
            self._write()
        except OSError as error:
            lines = plural(len(self._waiting) + self._num_dropped, "line")
            self._warn(f"{lines} of {self._path} could not be written ({error.strerror}).")
        else:
            self._worked()

    def forget_after(self, step: int) -> LostWork:
        """Drop the records of steps after `step`, which will be done again; return their cost."""
        kept = [line for line in self._waiting if line.step is None or line.step <= step]
        self._waiting = deque(kept)
        self._waiting_bytes = sum(len(line.data) for line in kept)
        self._cut_after = step if self._cut_after is None else min(step, self._cut_after)
        try:
            return self._cut()
        except OSError as error:
            self._failed(error)
            return LostWork(steps=0, seconds=0.0)

    def _has_lost_the_folder(self) -> bool:
        """Return whether another run's lines are in the file by now; what waits is then dropped."""
        if self._waiting and not self._is_taken and not self._is_ours():
            self._is_taken = True
            lines = plural(len(self._waiting) + self._num_dropped, "line")
            self._warn(f"{lines} of {self._path} are not written: another run has the folder.")
            self._waiting.clear()
        return self._is_taken

    def _keep(self, line: _Waiting) -> None:
        self._waiting.append(line)
        self._waiting_bytes += len(line.data)
        while self._waiting_bytes > KEPT_BYTES and len(self._waiting) > 1:
            self._waiting_bytes -= len(self._waiting.popleft().data)
            self._num_dropped += 1

    def _write(self) -> None:
        self._cut()
        while self._waiting:
            num_lines, data = 0, b""
            for line in self._waiting:
                if data and len(data) + len(line.data) > _AT_ONCE_BYTES:
                    break
                num_lines, data = num_lines + 1, data + line.data
            try:
                was_empty = append_lines(self._path, data)
            except FileNotFoundError:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                was_empty = append_lines(self._path, data)
            for _ in range(num_lines):
                self._waiting_bytes -= len(self._waiting.popleft().data)
            if was_empty and self._has_lines:
                self._remade()
            self._has_lines = True

    def _cut(self) -> LostWork:
        step = self._cut_after
        if step is None:
            return LostWork(steps=0, seconds=0.0)
        lost = cut_after(self._path, step)
        self._cut_after, self._has_lines = None, False
        return lost

    def _failed(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._warn(
                f"{self._path} cannot be written ({error.strerror}). The training does not depend "
                f"on it: the newest lines, up to {KEPT_BYTES >> 20} MiB, are kept and written as "
                "soon as that works again."
            )

    def _worked(self) -> None:
        if self._has_failed:
            lost = f", except the oldest {self._num_dropped}" if self._num_dropped else ""
            self._warn(f"{self._path} is written again, with the lines that were kept{lost}.")
        self._has_failed, self._num_dropped = False, 0


def cut_after(path: Path, step: int) -> LostWork:
    """Drop the records at the end of metrics.jsonl whose steps will be done again.

    Records are there in the order of their steps: no more is read than is dropped.

    Args:
        path: of the file, which need not exist.
        step: optimizer steps completed in the checkpoint.

    Returns:
        What the steps of these records had cost.

    Raises:
        OSError: The file cannot be read or cut.
    """
    found: list[Mapping[str, Any]] = []
    end = 0
    if (file := open_to_read(path)) is None:
        return lost_work(found, step)
    lines = Lines(path, is_metric)
    with file:
        size = file.seek(0, os.SEEK_END)
        for begin, line in lines_backwards(file):
            record = lines.record(line)
            if record is not None and record["step"] <= step:
                end = min(size, begin + len(line) + 1)
                found.append(record)
                break
            if record is not None:
                found = _bounds_of_attempts(found, record)
    if end < size:
        fd = open_plain(path, os.O_WRONLY)
        try:
            os.ftruncate(fd, end)
        finally:
            os.close(fd)
    found.reverse()
    return lost_work(found, step)


def _bounds_of_attempts(
    newer: list[Mapping[str, Any]], record: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """Return records, newest first, with an older one; of each attempt the first and last."""
    attempt = record.get("attempt")
    if len(newer) > 1 and all(one.get("attempt") == attempt for one in newer[-2:]):
        return [*newer[:-1], record]
    return [*newer, record]
