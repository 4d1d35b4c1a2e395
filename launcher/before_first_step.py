"""Leaving at once while a start has finished no step: there is nothing to save.

Imports, building, restoring and the first compile may take minutes in one call of C code, in which
no Python handler runs. Python's C handler writes the signal's number into a pipe at once, and a
thread reads it there. No other rank has to agree: none can finish the first step without this one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

from .exit_codes import CONTINUE
from .leaving import tell_leaving
from .main_module import flush_streams
from .signals import WARNING_SIGNALS, PreemptionFlag

_NOTICES = frozenset((*WARNING_SIGNALS, signal.SIGINT))
_OVER = 0
"""No signal has this number: written to end the thread."""


class BeforeFirstStep:
    """Ends this process with 75 as soon as a notice comes, until `end`.

    Args:
        flag: whose handlers are installed.
        leave: called in the thread; does not return.
    """

    def __init__(self, flag: PreemptionFlag, leave: Callable[[], NoReturn]) -> None:
        self._flag = flag
        self._leave = leave
        self._lock = threading.Lock()
        self._is_over = False
        self._write_fd = -1

    def begin(self) -> None:
        """Watch from now on. Called on the main thread."""
        read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        former = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        if former != -1:
            # Somebody else listens there; `check` still sees a notice between two parts.
            signal.set_wakeup_fd(former)
        watch = threading.Thread(
            target=self._watch, args=(read_fd,), name="relaunch-notice", daemon=True
        )
        watch.start()
        self.check()  # what came before

    def check(self) -> None:
        """Leave if a notice has come. Called between the parts of a start, on the main thread."""
        if not self._is_over and self._flag.requested:
            with self._lock:
                self._leave()

    def end(self) -> None:
        """From now on a notice waits for the ranks to agree. Called before the first update."""
        if self._is_over:
            return
        self.check()
        with self._lock:
            self._is_over = True
        signal.set_wakeup_fd(-1)
        os.write(self._write_fd, bytes([_OVER]))
        if self._flag.requested:
            return  # it came meanwhile, and the thread may have seen it: the step is finished

    def _watch(self, fd: int) -> None:
        while (came := os.read(fd, 1)) and came[0] != _OVER:
            if came[0] not in _NOTICES:
                continue
            with self._lock:
                if not self._is_over:
                    self._leave()
        os.close(fd)
        os.close(self._write_fd)


def leave_with_nothing_to_save(leaving_file: object, note: Callable[[], None]) -> NoReturn:
    """End the process with 75, whatever its main thread does. Called in any thread."""
    with contextlib.suppress(Exception):
        note()
    tell_leaving(leaving_file, CONTINUE)  # type: ignore[arg-type]
    flush_streams()
    os._exit(CONTINUE)
