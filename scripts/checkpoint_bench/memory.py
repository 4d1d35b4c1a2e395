"""The memory of a process and of all that it has started, at its largest."""

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

EVERY_S = 0.02


class PeakMemory:
    """Looks at the summed PSS again and again: a page that several share counts once."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.before_bytes = tree_pss_bytes(os.getpid())
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    @property
    def extra_bytes(self) -> int:
        """How much more there was than at the beginning."""
        return max(0, self.peak_bytes - self.before_bytes)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(EVERY_S):
            self.peak_bytes = max(self.peak_bytes, tree_pss_bytes(os.getpid()))


def tree_pss_bytes(pid: int) -> int:
    """Return the memory of a process and of all that descend from it, in bytes.

    A process is read before its children and after them, and the mean is taken: what two of them
    share moves from one's account to the other's meanwhile, and would count twice, or not at all.
    """
    before = _pss_bytes(pid)
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(c) for t in tasks for c in (t / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended meanwhile
    theirs = sum(tree_pss_bytes(child) for child in children)
    return (before + _pss_bytes(pid)) // 2 + theirs


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def bytes_read() -> int:
    """Return how many bytes this process has asked read() for until now, cached or not."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar: "):
            return int(line.split()[1])
    raise SystemExit("/proc/self/io has no rchar")


def drop_cached(path: Path) -> None:
    """Let the page cache forget all files in a folder; tmpfs has no other place for them."""
    for file in (one for one in path.rglob("*") if one.is_file()):
        fd = os.open(file, os.O_RDONLY)
        try:
            os.fsync(fd)  # pages that were not written yet are not dropped
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
