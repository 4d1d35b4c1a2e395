"""The end of the job's time: a scheduler may move it while ranks run; the launcher passes it on."""

import contextlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .small_file import write_json

LOOK_S = 1.0
"""How often a rank looks at the file at most."""
CONFIRM_S = 15.0
"""How long an end that has gone by is doubted; the launcher asks the scheduler within that time."""


def end_time_file(warning_file: Path) -> Path:
    """Return the file for an end that has moved: beside the notice."""
    return warning_file.with_name("end-time.json")


@dataclass(frozen=True, kw_only=True)
class ToldEnd:
    """The end as reported by the scheduler."""

    end_time_s: float | None
    """In seconds since the epoch; None: the time is not limited."""
    asked_at_s: float
    """When that was so, in seconds since the epoch."""

    def write(self, path: Path) -> None:
        """Write the file; called in the launcher. A full disk keeps the former end."""
        with contextlib.suppress(OSError):
            write_json(path, {"end_time": self.end_time_s, "asked_at": self.asked_at_s})

    @classmethod
    def read(cls, path: Path) -> "ToldEnd | None":
        """Return what the file says, or None when there is none or it is not ours."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            end, asked_at = content["end_time"], float(content["asked_at"])
            return cls(end_time_s=None if end is None else float(end), asked_at_s=asked_at)
        except (OSError, ValueError, KeyError, TypeError):
            return None


class EndTime:
    """The end as a rank knows it."""

    def __init__(
        self,
        at_start_s: float | None,
        file: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            at_start_s: As given at the start, in seconds since the epoch.
            file: Where the launcher tells it later; None: nowhere.
            clock: Seconds since the epoch.
        """
        self._end_s = at_start_s
        self._file = file
        self._clock = clock
        self._told_at_s = clock()
        self._looked_at_s = -math.inf
        self._changed_ns = 0
        self._doubted_since_s: float | None = None

    def now_s(self) -> float | None:
        """Return it in seconds since the epoch; None: none is known.

        A job that still runs after its end was suspended, or given more time, and the launcher has
        not heard of it yet: such an end is no end for a while.
        """
        now = self._clock()
        if self._file is not None and not 0 <= now - self._looked_at_s < LOOK_S:
            self._looked_at_s = now
            self._look(self._file)
        end = self._end_s
        if end is None or now < end or self._told_at_s >= end:
            self._doubted_since_s = None
            return end
        if self._doubted_since_s is None:
            self._doubted_since_s = now
        return None if now - self._doubted_since_s < CONFIRM_S else end

    def _look(self, file: Path) -> None:
        try:
            changed_ns = file.stat().st_mtime_ns
        except OSError:
            return
        if changed_ns != self._changed_ns and (asked := ToldEnd.read(file)) is not None:
            self._changed_ns = changed_ns
            self._end_s, self._told_at_s = asked.end_time_s, asked.asked_at_s
