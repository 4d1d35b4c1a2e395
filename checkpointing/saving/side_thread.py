"""A background thread whose start is not waited for."""

import _thread
import threading
from collections.abc import Callable


class SideThread:
    """Runs one task in its own thread, or at once if no thread can be started.

    `threading.Thread.start` returns once the thread runs. Where every core computes, that takes
    until the system lets another have one: milliseconds, for which the training would stop.

    Args:
        work: What it does; raises nothing.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        self._is_done = threading.Event()
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # the user or the control group may have no more threads
            self._run()

    def is_alive(self) -> bool:
        """Return whether it is under way."""
        return not self._is_done.is_set()

    def join(self) -> None:
        """Return once it is done."""
        self._is_done.wait()

    def _run(self) -> None:
        work, self._work = self._work, None
        assert work is not None
        try:
            work()
        finally:
            self._is_done.set()
