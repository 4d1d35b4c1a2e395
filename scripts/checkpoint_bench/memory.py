"""The memory of a process and of all that it has started, at its largest."""

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

EVERY_S = 0.02
_IN_MEMORY = ("/memfd:", "/dev/shm/", "/dev/zero")
"""Files that are nothing but memory."""
_ALIKE = 0.9
"""A forked child shares its parent's pages and has half of them at most."""


class PeakMemory:
    """Looks at the summed memory again and again: a page that several share counts once."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.before_bytes = tree_bytes(os.getpid())
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
            self.peak_bytes = max(self.peak_bytes, tree_bytes(os.getpid()))


def tree_bytes(pid: int) -> int:
    """Return the memory of a process and of all that descend from it, in bytes.

    What several processes share counts by its length, once: it moves from one's account to the
    other's while they are looked at.
    """
    shared_bytes: dict[str, int] = {}
    own_bytes = _own_bytes(pid, shared_bytes)
    return own_bytes + sum(shared_bytes.values())


def _own_bytes(pid: int, shared_bytes: dict[str, int], parent: tuple[str, int] = ("", 0)) -> int:
    """Return the memory of a process tree but for what it shares, whose lengths are noted.

    Args:
        pid: its root.
        shared_bytes: by file, is added to.
        parent: the parent's first mapping and its bytes. A child that is about to start a program
            is in its parent's memory until then (vfork), and has none of its own.
    """
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(c) for t in tasks for c in (t / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it has ended meanwhile
    sizes = {one.split(":")[0]: int(one.split()[1]) * 1024 for one in rollup[1:]}
    if not maps or (maps[0] == parent[0] and sizes["Pss"] > _ALIKE * parent[1]):
        return 0
    for line in maps:
        # 7f12..000-7f13..000 rw-s 00000000 00:01 2053 /memfd:name (deleted)
        span, _, offset, device, inode, *name = line.split(maxsplit=5)
        if name and name[0].startswith(_IN_MEMORY):
            start, end = (int(part, 16) for part in span.split("-"))
            key, length = f"{device} {inode}", end - start + int(offset, 16)
            shared_bytes[key] = max(shared_bytes.get(key, 0), length)
    here = (maps[0], sizes["Pss"])
    own_bytes = sizes["Pss"] - sizes["Pss_Shmem"]
    return own_bytes + sum(_own_bytes(child, shared_bytes, here) for child in children)


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
