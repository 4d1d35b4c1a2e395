"""One batch that is read before it is asked for, while the device has something to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import DataNotReady
from ..seeding import kept_streams


class ReadAhead(Iterator[Any]):
    """The same batches in the same order; `read` fetches one of them early.

    Args:
        batches: where they come from. Not a stream that counts what was read: that would be ahead
            of what was trained.
    """

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self._held: list[Any] = []
        self._error: BaseException | None = None

    def read(self) -> None:
        """Read a batch, unless one is held; the random streams of this process stay as they are.

        What goes wrong is raised when the batch is asked for: what is under way is another step.
        """
        if self._held or self._error is not None:
            return
        try:
            with kept_streams():
                self._held.append(next(self._batches))
        except DataNotReady:
            return  # it is asked for again
        except Exception as error:
            self._error = error

    def __next__(self) -> Any:
        """Return the next batch, as `Batches` does."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._held.pop() if self._held else next(self._batches)
