"""How long the first save will take: from its size and a measured write. On the coordinator."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

PROBE_BYTES = 16 * 1024 * 1024
"""Enough for a disk to show its speed, and little beside any checkpoint."""
OVERHEAD_S = 0.05
"""For what does not grow with the size: the manifest, the syncs, the renames."""


def estimated_save_s(size_bytes: int, bytes_per_s: float) -> float:
    """Return the seconds that writing so much takes at this speed. Pure."""
    return OVERHEAD_S + size_bytes / max(bytes_per_s, 1.0)


def measured_bytes_per_s(folder: Path, clock: Callable[[], float] = time.monotonic) -> float:
    """Write a file in a folder, sync it, remove it; return how fast that was.

    Raises:
        OSError: it cannot be written.
    """
    probe = folder / f".relaunch-probe-{os.getpid()}"
    content = os.urandom(1024 * 1024)  # a file system may compress what is always the same
    began_s = clock()
    fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        for _ in range(PROBE_BYTES // len(content)):
            os.write(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
        probe.unlink()
    return PROBE_BYTES / max(clock() - began_s, 1e-6)
