"""The memory into which a rank copies its state, shared with its writer process."""

import mmap
import os
from collections.abc import Callable

Unpin = Callable[[], None]


class Staging:
    """Memory that stays warm from one save to the next.

    It has no name: however the processes that share it end, none of it is left behind.

    Args:
        pin: Makes it known to the accelerator, which then copies there at full speed; returns
            what undoes that.
    """

    def __init__(self, pin: Callable[[mmap.mmap], Unpin]) -> None:
        self.fd = os.memfd_create("relaunch-staging")
        self._pin = pin
        self._memory: mmap.mmap | None = None
        self._unpin: Unpin | None = None

    def image(self, size_bytes: int) -> mmap.mmap:
        """Return memory of at least this size, its pages already there from the last time.

        Raises:
            OSError: There is not so much memory.
        """
        if self._memory is None or len(self._memory) < size_bytes:
            # Reserved here: a page that is missing later would end the process by SIGBUS.
            os.posix_fallocate(self.fd, 0, size_bytes)
            self._forget()
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
            self._memory = mmap.mmap(self.fd, size_bytes, flags=flags)
            self._unpin = self._pin(self._memory)
        return self._memory

    def leave_behind(self) -> None:
        """Go on with new memory: a process that hangs may still read in this one."""
        self.close()
        self.fd = os.memfd_create("relaunch-staging")

    def close(self) -> None:
        """Let the memory go."""
        self._forget()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _forget(self) -> None:
        # Unmapped when the last view of it is gone, and known to the accelerator no longer then.
        if self._unpin is not None:
            self._unpin()
        self._memory = self._unpin = None
