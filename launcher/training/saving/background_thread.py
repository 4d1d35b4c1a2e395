"""Work of one rank that waits for the network, beside its training. No collective in it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundThread:
    """Runs one action at a time in a thread; what it raised is raised where it is waited for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, action: Callable[[], None]) -> None:
        """Begin, once the former action has ended; now and here where no thread can be had."""
        self.wait()
        thread = threading.Thread(target=self._run, args=(action,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the user or the control group may have no more threads
            self._run(action)
        else:
            self._thread = thread

    def wait(self) -> None:
        """Return once nothing is under way.

        Raises:
            BaseException: What the action raised.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BaseException as error:
            self._error = error
