"""Leaving at once while a start has finished no step: there is nothing to save.

Imports, building, restoring and the first compile may take minutes in one call of C code, in which
no Python handler runs. Python's C handler writes the signal's number into a pipe at once, and a
thread reads it there. No other rank has to agree: none can finish the first step without this one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ...contract.exit_codes import CONTINUE
from ...contract.files.leaving import tell_leaving
from ...contract.preemption import WARNING_SIGNALS, PreemptionFlag
from ...workers.process_end import flush_streams

_NOTICES = frozenset((*WARNING_SIGNALS, signal.SIGINT))
_OVER = 0
"""No signal has this number: written to end the thread."""


class BeforeFirstStep:
    """Ends this process with 75 as soon as a notice comes, until `end`.

    Args:
        flag: whose handlers are installed.
        leave: called in any thread with the signal, if it is known; does not return. None: this
            process is not to be ended so.
    """

    def __init__(
        self, flag: PreemptionFlag, leave: Callable[[int | None], NoReturn] | None = None
    ) -> None:
        self._flag = flag
        self._leave = leave
        self._lock = threading.Lock()
        self._is_over = leave is None
        self._is_paused = False
        self._write_fd = -1

    @property
    def is_under_way(self) -> bool:
        """Whether this start has not come to its first update yet."""
        return not self._is_over

    def begin(self) -> None:
        """Watch from now on. Called on the main thread."""
        read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        if (former := signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)) != -1:
            # Somebody else listens there; `leave_if_asked` still sees a notice between two parts.
            signal.set_wakeup_fd(former)
        watch = threading.Thread(
            target=self._watch, args=(read_fd,), name="relaunch-notice", daemon=True
        )
        watch.start()
        self.leave_if_asked()  # what came before

    def pause(self) -> None:
        """Let a notice wait while the script does things of its own, which may be to be saved."""
        with self._lock:
            self._is_paused = True

    def leave_if_asked(self) -> None:
        """Leave if a notice has come, now or later. Called between the parts of a start."""
        self._is_paused = False
        if self._flag.requested:
            self._go()

    def end(self) -> None:
        """From now on a notice waits for the ranks to agree. Called before the first update."""
        if self._is_over:
            return
        self.leave_if_asked()
        with self._lock:
            self._is_over = True
        if (listens := signal.set_wakeup_fd(-1)) != self._write_fd:
            signal.set_wakeup_fd(listens)
        os.write(self._write_fd, bytes([_OVER]))

    def _go(self, signum: int | None = None) -> None:
        with self._lock:
            if not (self._is_over or self._is_paused) and self._leave is not None:
                self._leave(signum)

    def _watch(self, fd: int) -> None:
        while (came := os.read(fd, 1)) and came[0] != _OVER:
            if came[0] in _NOTICES:
                self._go(came[0])
        os.close(fd)
        os.close(self._write_fd)


def silence_threads() -> None:
    """Print no exception of other threads from now on: this process is leaving.

    The thread in which multiprocessing shares descriptors meets a connection that is reset, where a
    loader's worker is ended first, and would print it as this rank's.
    """
    shown = sys.excepthook

    def of_main_thread(kind: Any, error: Any, trace: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            shown(kind, error, trace)

    sys.excepthook = of_main_thread


def leave_with_nothing_to_save(leaving_file: Path | None, note: Callable[[], None]) -> NoReturn:
    """End the process with 75, whatever its main thread does. Called in any thread."""
    with contextlib.suppress(Exception):
        note()
    silence_threads()
    tell_leaving(leaving_file, CONTINUE)
    flush_streams()
    os._exit(CONTINUE)
