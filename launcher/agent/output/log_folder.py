"""The files with the ranks' output: a folder for each attempt, which nothing overwrites."""

import os
import re
import threading
from collections.abc import Callable, Iterable
from io import FileIO
from pathlib import Path

from ...run_folder.plain_files import open_plain, replace_text

_ATTEMPT = re.compile(r"attempt-(\d+)")


class LogFolder:
    """One attempt's folder. A file that cannot be written costs a warning, never the run."""

    def __init__(self, path: Path, number: int, warn: Callable[[str], None]) -> None:
        self.path = path
        self.number = number
        """The attempt's."""
        self._warn = warn
        self._warned = False
        self._files: dict[Path, FileIO] = {}
        self._one_writer = threading.Lock()

    @classmethod
    def create(
        cls, log_dir: Path, warn: Callable[[str], None], *, at_least: int = 1
    ) -> "LogFolder | None":
        """Make the folder after the last one there; None, and a warning, where that fails.

        Args:
            log_dir: Where it is made.
            warn: Says why there are no logs.
            at_least: The lowest number that it may have.
        """
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
            while True:
                number = max(at_least, next_attempt(path.name for path in log_dir.iterdir()))
                path = log_dir / f"attempt-{number}"
                try:
                    path.mkdir()
                except FileExistsError:
                    continue  # another start of the command was quicker
                replace_text(path / ".probe", "may this process write here?")
                (path / ".probe").unlink()
                return cls(path, number, warn)
        except OSError as error:
            warn(
                f"warning: no logs are written: {error.filename or log_dir}: {error.strerror}. "
                "All ranks are shown here."
            )
            return None

    def rank_log(self, rank: int) -> Path:
        """Return the file with what a rank wrote."""
        return self.path / f"rank-{rank}.log"

    def append(self, path: Path, data: bytes) -> None:
        """Add to a file of this folder; said once when it cannot be done."""
        with self._one_writer:
            try:
                if path not in self._files:
                    fd = open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                    self._files[path] = FileIO(fd, "ab")
                while data:
                    data = data[self._files[path].write(data) :]
            except OSError as error:
                if not self._warned:
                    self._warned = True
                    self._warn(f"warning: {path} cannot be written ({error.strerror}).")

    def close(self) -> None:
        """Close the files."""
        with self._one_writer:
            for file in self._files.values():
                file.close()
            self._files = {}


def next_attempt(names: Iterable[str]) -> int:
    """Return the number after the highest `attempt-K` among the names; 1 for the first."""
    taken = [int(match[1]) for name in names if (match := _ATTEMPT.fullmatch(name))]
    return max(taken, default=0) + 1
