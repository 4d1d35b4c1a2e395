"""Write a file front to back in whole blocks, and sum up each block on the way."""

import errno
import mmap
from collections.abc import Iterable
from pathlib import PurePath

from .checksum import summing
from .direct_writes import ALIGN_BYTES
from .files import Files


class BlockWriter:
    """Turns pieces of any size into block-sized writes at increasing offsets.

    Small tensors are gathered in one block of memory: writing each by itself would halve the
    throughput (arXiv 2512.24511). Large ones are written from where they are, but for direct
    writes, which need an aligned address. Only whole blocks are written directly.

    Args:
        fd: The file, empty or preallocated.
        files: How to reach the disk.
        block_bytes: The bytes of a write, and under one checksum.
        size_bytes: Of the whole file.
        is_aligned: See `write_new_file`.
    """

    def __init__(
        self,
        fd: int,
        files: Files,
        block_bytes: int,
        *,
        size_bytes: int,
        is_aligned: bool = False,
    ) -> None:
        self._fd = fd
        self._files = files
        self._block_bytes = block_bytes
        can_be_direct = size_bytes >= block_bytes and block_bytes % ALIGN_BYTES == 0
        self._is_direct = can_be_direct and files.bypass_cache(fd)
        self._is_aligned = is_aligned
        self._writes_in_place = is_aligned or not self._is_direct
        # Made when it is needed: what comes in whole blocks needs none.
        self._pending = memoryview(b"")
        self._num_pending = 0
        self._offset = 0
        self._crc32: list[int] = []

    def write(self, data: memoryview) -> None:
        """Append bytes. `data` is of itemsize 1 and is not kept.

        Raises:
            OSError: From the disk.
        """
        while len(data):
            # A short piece among aligned ones is the last, and a block by itself.
            is_block = len(data) >= self._block_bytes or self._is_aligned
            if is_block and self._num_pending == 0 and self._writes_in_place:
                self._write_block(data[: self._block_bytes])
                data = data[self._block_bytes :]
                continue
            if not self._pending:
                self._pending = memoryview(mmap.mmap(-1, self._block_bytes))  # begins at a page
            taken = min(len(data), self._block_bytes - self._num_pending)
            self._pending[self._num_pending : self._num_pending + taken] = data[:taken]
            self._num_pending += taken
            data = data[taken:]
            if self._num_pending == self._block_bytes:
                self._flush()

    def finish(self) -> tuple[int, tuple[int, ...]]:
        """Write what is pending; return the file's size in bytes and the CRC-32 of each block.

        Raises:
            OSError: From the disk.
        """
        if self._num_pending:
            self._flush()
        return self._offset, tuple(self._crc32)

    def _flush(self) -> None:
        self._write_block(self._pending[: self._num_pending])
        self._num_pending = 0

    def _write_block(self, block: memoryview) -> None:
        with summing(block) as summed:
            self._put(block)
        self._crc32.append(summed())
        self._offset += len(block)

    def _put(self, block: memoryview) -> None:
        if self._is_direct and len(block) < self._block_bytes:
            self._end_direct_writes()
        try:
            self._files.write_all(self._fd, block, self._offset)
        except OSError as error:
            # The disk below may want a larger alignment than 4096.
            if not self._is_direct or error.errno != errno.EINVAL:
                raise
            self._end_direct_writes()
            self._files.write_all(self._fd, block, self._offset)

    def _end_direct_writes(self) -> None:
        self._files.use_cache(self._fd)
        self._is_direct = False
        self._writes_in_place = True


def write_new_file(
    path: PurePath,
    pieces: Iterable[memoryview],
    size_bytes: int,
    *,
    files: Files,
    block_bytes: int,
    is_aligned: bool = False,
) -> tuple[int, tuple[int, ...]]:
    """Write, sync and close a file; return its size in bytes and the CRC-32 of each block.

    Args:
        path: Must not exist; its name is not yet durable on return.
        pieces: The content, of itemsize 1; each is used before the next is asked for.
        size_bytes: Of all pieces, reserved before the first is written.
        files: How to reach the disk.
        block_bytes: The bytes of a write, and under one checksum.
        is_aligned: All pieces but the last are whole blocks, each beginning with a page of memory.

    Raises:
        OSError: From the disk.
    """
    fd = files.create(path)
    try:
        files.preallocate(fd, size_bytes)
        writer = BlockWriter(fd, files, block_bytes, size_bytes=size_bytes, is_aligned=is_aligned)
        for piece in pieces:
            writer.write(piece)
        finished = writer.finish()
        files.fsync(fd)
    finally:
        files.close(fd)
    return finished
