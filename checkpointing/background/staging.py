"""The memory into which a rank copies its state, shared with its writer process."""

import errno
import mmap
import os
import threading
from collections.abc import Callable

from .host_memory import host_free_bytes
from .pinned_memory import PinRefusedError, on_current_gpu

Unpin = Callable[[], None]
_STEP_BYTES = 64 * 1024 * 1024
_LEFT_BYTES = 256 * 1024 * 1024
"""What is left to everybody else on the host."""


class Staging:
    """Memory that stays warm from one save to the next.

    It has no name: however the processes that share it end, none of it is left behind.

    Args:
        pin: Makes it known to the accelerator, which then copies there at full speed; returns
            what undoes that, or raises PinRefusedError.
        free_bytes: How much memory the host still has; None: that is not known.
    """

    def __init__(
        self,
        pin: Callable[[mmap.mmap], Unpin],
        free_bytes: Callable[[], int | None] = host_free_bytes,
    ) -> None:
        self.fd = os.memfd_create("relaunch-staging")
        self._pin = pin
        self._free_bytes = free_bytes
        self._memory: mmap.mmap | None = None
        self._unpin: Unpin | None = None
        self._preparing: threading.Thread | None = None
        self._is_closing = False
        self.note: str | None = None
        """Why copies to the memory are slow; None: they are not."""

    def prepare(self, size_bytes: int) -> None:
        """Take memory of this size in a thread, if there is none yet; `image` waits for it.

        Where there is not so much, nothing is taken: `image` tries again, and reports it.
        """
        if self._memory is not None or self._preparing is not None:
            return
        work = on_current_gpu(lambda: self._prepare(size_bytes))
        thread = threading.Thread(target=work, name="relaunch-staging", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads for this user: the first save takes the memory
            return
        self._preparing = thread

    def image(self, size_bytes: int) -> mmap.mmap:
        """Return memory of at least this size, its pages already there from the last time.

        Raises:
            OSError: There is not so much memory (ENOMEM).
        """
        self._wait()
        if self._memory is None or len(self._memory) < size_bytes:
            self._reserve(size_bytes)
            self._forget()
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
            self._hold(mmap.mmap(self.fd, size_bytes, flags=flags))
        assert self._memory is not None
        return self._memory

    def _prepare(self, size_bytes: int) -> None:
        try:
            self._reserve(size_bytes)
        except OSError:
            return
        memory = mmap.mmap(self.fd, size_bytes, flags=mmap.MAP_SHARED)
        # Not MAP_POPULATE, during which Python would run nothing else of this process.
        self._touch(memory)
        self._hold(memory)

    def _touch(self, memory: mmap.mmap) -> None:
        """Have the kernel map every page, while Python's lock is free."""
        import torch

        pages = torch.frombuffer(memory, dtype=torch.uint8)[:: mmap.PAGESIZE]
        num_pages = _STEP_BYTES // mmap.PAGESIZE
        for start in range(0, len(pages), num_pages):
            if self._is_closing:
                return
            pages[start : start + num_pages].fill_(0)

    def _hold(self, memory: mmap.mmap) -> None:
        self._memory, self.note = memory, None
        try:
            self._unpin = self._pin(memory)
        except PinRefusedError as refused:
            self.note = str(refused)

    def _wait(self) -> None:
        if self._preparing is not None:
            self._preparing.join()
            self._preparing = None

    def _reserve(self, size_bytes: int) -> None:
        """Take the memory bit by bit: all ranks of a host do, and each sees what the others took.

        Too much would not be refused by the kernel: it would end some process to make room.
        """
        held_bytes = 0 if self._memory is None else len(self._memory)
        try:
            for start in range(held_bytes, size_bytes, _STEP_BYTES):
                if self._is_closing:
                    raise OSError(errno.ECANCELED, "the memory is not needed any more")
                if start:
                    self._require_room(size_bytes)
                # Now: a page that is missing later would end the process by SIGBUS.
                os.posix_fallocate(self.fd, start, min(_STEP_BYTES, size_bytes - start))
        except OSError:
            os.ftruncate(self.fd, held_bytes)
            raise

    def _require_room(self, size_bytes: int) -> None:
        free = self._free_bytes()
        if free is not None and free < _LEFT_BYTES + _STEP_BYTES:
            raise OSError(
                errno.ENOMEM,
                f"a copy of {_gib(size_bytes)} does not fit into the host's memory: of "
                f"{_gib(free)} that are free now, {_gib(_LEFT_BYTES)} are not touched",
            )

    def leave_behind(self) -> None:
        """Continue with new memory: a process that hangs may still read in this one."""
        self.close()
        self.fd, self._is_closing = os.memfd_create("relaunch-staging"), False

    def close(self) -> None:
        """Release the memory."""
        self._is_closing = True
        self._wait()
        self._forget()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _forget(self) -> None:
        # Unmapped when the last view of it is gone, and known to the accelerator no longer then.
        if self._unpin is not None:
            self._unpin()
        self._memory = self._unpin = None


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
