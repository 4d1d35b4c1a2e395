"""What a script that reports no steps has printed last; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...terminal.printable import printable

_BLOCK_BYTES = 1 << 13


class NewestLine:
    """Follows the output of rank 0, of which the newest line is shown.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shown: tuple[Path, int] | None = None
        """The file, and how long it was."""

    def news(self) -> str | None:
        """Return the newest line, if something was printed since it was asked for last."""
        path = newest_log(list(self._folder.glob("logs/attempt-*/rank-0.log")))
        if path is None:
            return None
        try:
            size = path.stat().st_size
            if size == 0 or (path, size) == self._shown:
                return None
            with path.open("rb") as file:
                file.seek(max(0, size - _BLOCK_BYTES))
                block = file.read(_BLOCK_BYTES)
        except OSError:
            return None
        self._shown = path, size
        line = newest_line(block)
        return None if line is None else f"rank 0: {line}"


def newest_log(paths: Sequence[Path]) -> Path | None:
    """Return the log of the newest attempt, by the number of its folder; pure."""
    numbered = {path.parent.name.removeprefix("attempt-"): path for path in paths}
    numbers = [number for number in numbered if number.isdecimal()]
    return numbered[max(numbers, key=int)] if numbers else None


def newest_line(block: bytes) -> str | None:
    """Return the last line of some output that is not blank; pure."""
    texts = block.decode(errors="replace").replace("\r", "\n").split("\n")
    return next((printable(text.strip()) for text in reversed(texts) if text.strip()), None)
