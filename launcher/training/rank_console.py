"""A rank's output for its user: messages, warnings, and a line that is updated in place."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from ..terminal.console import is_screen
from ..terminal.printable import printable, printable_lines

REDRAW_S = 0.2
"""How often the line in place changes."""
LINE_S = 5.0
"""How often a line of progress is printed where nothing can be written over."""
_ERASE = "\r\x1b[K"


class RankConsole:
    """The coordinator's console; the other ranks' copies are silent.

    What it cannot print, because it goes into a file on a full disk or nobody reads it any more, is
    lost, and ends nothing.
    """

    def __init__(
        self,
        *,
        is_heard: bool,
        clock: Callable[[], float] = time.monotonic,
        out: Callable[[], TextIO] = lambda: sys.stdout,
        error: Callable[[], TextIO] = lambda: sys.stderr,
    ) -> None:
        self._is_heard = is_heard
        self._clock = clock
        self._out = out
        self._error = error
        self._has_line = False
        self._shown_s: float | None = None
        self._writes_in_place = False

    def say(self, sentence: str) -> None:
        """Print a line, or several."""
        self._print(sentence, self._out())

    def warn(self, sentence: str) -> None:
        """Print a warning on standard error."""
        self._print(f"warning: {sentence}", self._error())

    def wants_progress(self) -> bool:
        """Return whether it is time for another line of progress."""
        if not self._is_heard:
            return False
        if self._shown_s is None:
            return True
        # The system is asked whether it is a terminal only where that decides.
        since_s = self._clock() - self._shown_s
        return since_s >= LINE_S or (since_s >= REDRAW_S and self._writes_in_place)

    def progress(self, line: Callable[[int | None], str]) -> None:
        """Show a line of progress: in place on a terminal, else as a line of its own.

        Args:
            line: makes it, in at most so many characters where a number is given.
        """
        self._shown_s = self._clock()
        self._writes_in_place = self._is_terminal()
        if not self._writes_in_place:
            self.say(line(None))
            return
        with suppress(OSError):
            room = os.get_terminal_size(self._out().fileno()).columns - len("relaunch: ") - 1
            text = printable(line(room if room > 0 else None))
            self._out().write(f"{_ERASE}relaunch: {text}")
            self._out().flush()
            self._has_line = True

    def clear(self) -> None:
        """Take the line in place away, before somebody else writes."""
        if self._has_line:
            self._has_line = False
            with suppress(OSError):
                self._out().write(_ERASE)
                self._out().flush()

    def _print(self, text: str, stream: TextIO) -> None:
        if self._is_heard:
            self.clear()
            lines = printable_lines(text).split("\n")
            with suppress(OSError):
                print("\n".join(f"relaunch: {line}" for line in lines), file=stream, flush=True)

    def _is_terminal(self) -> bool:
        try:
            return is_screen(self._out().fileno()) and os.environ.get("TERM") != "dumb"
        except (OSError, ValueError):  # a stream that was replaced by one without a descriptor
            return False
