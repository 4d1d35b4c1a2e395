"""Memory of each rank of a host that all of them read: what they tell each other is not sent.

gloo sends between two processes of a host through sockets, in threads of its own: each byte is
copied twice by the kernel, and every message takes a core from a rank that computes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress

import torch

from .socket_channel import SocketChannel, close_all


class SharedMemory:
    """What each rank tells the others is written in its memory, which they have mapped.

    It has two halves. What a rank writes before a meeting, all read after it, until the next one;
    what it writes meanwhile is in the other half. So one meeting is enough where there were two.

    It has no name and no descriptor, and forked processes do not get it: it is gone with the ranks.

    Args:
        neighbours: connects the ranks, which are all on this host.
    """

    def __init__(self, neighbours: SocketChannel) -> None:
        self._neighbours = neighbours
        self._of_ranks: dict[int, torch.Tensor] = {}
        self._half_bytes = 0
        self._written = 0
        """Which half is written; the other one is read."""

    @property
    def size_bytes(self) -> int:
        """Of this rank's memory; that of the others is as large, and theirs."""
        return 2 * self._half_bytes

    def reserve(self, size_bytes: int) -> bool:
        """Have room for what each rank tells at a meeting, at least so much. Called on every rank.

        No one may be about to read what was told before.

        Args:
            size_bytes: the same on every rank.

        Returns:
            False, then on every rank: the system does not let one of them; what there was stays.

        Raises:
            LostRankError: another rank is gone, or does not come within the limit.
            DesyncError: it does something else.
        """
        half_bytes = -(-max(size_bytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        if half_bytes <= self._half_bytes:
            return True
        of_ranks = self._map_all(2 * half_bytes)
        (num_without,) = self._neighbours.start([float(of_ranks is None)]).wait()
        if num_without or of_ranks is None:
            return False
        self._of_ranks, self._half_bytes, self._written = of_ranks, half_bytes, 0
        return True

    def mine(self, begin_bytes: int, length: int, dtype: torch.dtype) -> torch.Tensor:
        """Return a part of what this rank tells at the next meeting, to be written; flat."""
        return self._part(self._neighbours.rank, self._written, begin_bytes, length, dtype)

    def theirs(self, rank: int, begin_bytes: int, length: int, dtype: torch.dtype) -> torch.Tensor:
        """Return a part of what a rank has told at the last meeting, valid until the next; flat."""
        return self._part(rank, 1 - self._written, begin_bytes, length, dtype)

    def meet(self) -> None:
        """Wait until all ranks have written what they tell. Called on every rank.

        Raises:
            LostRankError: another rank is gone, or does not come within the limit.
            DesyncError: it does something else.
        """
        self._neighbours.start([]).wait()
        self._written = 1 - self._written

    def close(self) -> None:
        """Give the memory back."""
        self._of_ranks, self._half_bytes = {}, 0

    def _part(
        self, rank: int, half: int, begin_bytes: int, length: int, dtype: torch.dtype
    ) -> torch.Tensor:
        size_bytes = length * dtype.itemsize
        assert begin_bytes + size_bytes <= self._half_bytes, "reserved less"
        begin = half * self._half_bytes + begin_bytes
        return self._of_ranks[rank][begin : begin + size_bytes].view(dtype)

    def _map_all(self, size_bytes: int) -> dict[int, torch.Tensor] | None:
        own = _memory_file(size_bytes)
        files = {self._neighbours.rank: own}
        try:
            files |= self._neighbours.swap_descriptors(own, size_bytes)
            mapped = {rank: _mapped(file, size_bytes) for rank, file in files.items()}
        finally:
            close_all(files.values())
        found = {rank: memory for rank, memory in mapped.items() if memory is not None}
        return found if len(found) == len(mapped) else None


def _memory_file(size_bytes: int) -> int | None:
    """Return a file that is nothing but memory, all of it taken; None: the system has no such."""
    if not hasattr(os, "memfd_create"):
        return None
    file = None
    try:
        file = os.memfd_create("relaunch-sums")
        # Now: a page that is missing later would end the process by SIGBUS.
        os.posix_fallocate(file, 0, size_bytes)
    except OSError:
        if file is not None:
            os.close(file)
        return None
    return file


def _mapped(file: int | None, size_bytes: int) -> torch.Tensor | None:
    """Return the memory of a file, as bytes; None: it cannot be mapped."""
    if file is None:
        return None
    with suppress(OSError, RuntimeError):
        # Python's own mmap would keep a descriptor, which forked processes get.
        path = f"/proc/self/fd/{file}"
        memory = torch.from_file(path, shared=True, size=size_bytes, dtype=torch.uint8)
        where = ctypes.c_void_p(memory.data_ptr())
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.madvise(where, ctypes.c_size_t(size_bytes), mmap.MADV_DONTFORK) == 0:
            return memory
    return None
