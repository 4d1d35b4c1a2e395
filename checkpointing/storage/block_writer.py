"""Write a file front to back in large pieces, and sum up each block on the way."""

import errno
import mmap
from collections.abc import Iterable
from pathlib import PurePath

from .checksum import crc32, summing
from .filesystems import ALIGN_BYTES
from .local_files import Files, full_disk_told

_WORTH_A_WRITE_BYTES = 256 * 1024
"""A shorter piece is copied to others rather than written alone."""
_CACHED_BYTES = 512 * 1024


class BlockWriter:
    """Turns pieces of any size into writes at increasing offsets, and sums up block by block.

    Small tensors are gathered in one block of memory: writing each by itself would halve the
    throughput (arXiv 2512.24511). Large ones are written from where they are, but for direct
    writes, which need whole blocks at an aligned address.

    Args:
        fd: The file, empty or preallocated.
        files: How to reach the disk.
        block_bytes: The bytes under one checksum.
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
        # Made when it is needed: what comes in large pieces needs none.
        self._pending = memoryview(b"")
        self._num_pending = 0
        self._offset = 0
        self._in_block = 0
        self._sum = 0
        self._crc32: list[int] = []

    def write(self, data: memoryview) -> None:
        """Append bytes. `data` is of itemsize 1 and is not kept.

        Raises:
            OSError: From the disk.
        """
        while len(data):
            room = self._block_bytes - self._in_block - self._num_pending
            piece, data = data[:room], data[room:]
            if self._is_written_in_place(piece):
                self._flush()
                self._put(piece)
            else:
                self._gather(piece)
            if len(piece) == room:
                self._end_block()

    def finish(self) -> tuple[int, tuple[int, ...]]:
        """Write what is pending; return the file's size in bytes and the CRC-32 of each block.

        Raises:
            OSError: From the disk.
        """
        if self._in_block or self._num_pending:
            self._end_block()
        return self._offset, tuple(self._crc32)

    def _is_written_in_place(self, piece: memoryview) -> bool:
        if self._is_direct or self._is_aligned:
            return self._is_aligned
        return len(piece) >= min(_WORTH_A_WRITE_BYTES, self._block_bytes)

    def _gather(self, piece: memoryview) -> None:
        if not self._pending:
            self._pending = memoryview(mmap.mmap(-1, self._block_bytes))  # begins at a page
        self._pending[self._num_pending : self._num_pending + len(piece)] = piece
        self._num_pending += len(piece)

    def _end_block(self) -> None:
        self._flush()
        self._crc32.append(self._sum)
        self._in_block = self._sum = 0

    def _flush(self) -> None:
        if self._num_pending:
            self._put(self._pending[: self._num_pending])
            self._num_pending = 0

    def _put(self, piece: memoryview) -> None:
        """Write a piece of one block, and add it to the block's checksum."""
        if self._is_direct and len(piece) < self._block_bytes:
            self._end_direct_writes()
        if self._is_direct:
            # A disk that is waited for needs no processor.
            with summing(piece) as summed:
                self._write_directly(piece)
            self._sum = summed()
        else:
            self._write_cached(piece)
        self._offset += len(piece)
        self._in_block += len(piece)

    def _write_directly(self, block: memoryview) -> None:
        try:
            self._files.write_all(self._fd, block, self._offset)
        except OSError as error:
            # The disk below may want a larger alignment than 4096.
            if error.errno != errno.EINVAL:
                raise
            self._end_direct_writes()
            self._files.write_all(self._fd, block, self._offset)

    def _write_cached(self, piece: memoryview) -> None:
        """Sum up so much at a time as a core's cache holds until it is copied."""
        for start in range(0, len(piece), _CACHED_BYTES):
            part = piece[start : start + _CACHED_BYTES]
            self._sum = crc32(part, self._sum)
            self._files.write_all(self._fd, part, self._offset + start)

    def _end_direct_writes(self) -> None:
        self._files.use_cache(self._fd)
        self._is_direct = False


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
    with full_disk_told(path.parent, files, size_bytes):
        fd = files.create(path)
    try:
        with full_disk_told(fd, files, size_bytes):
            files.preallocate(fd, size_bytes)
            writer = BlockWriter(
                fd, files, block_bytes, size_bytes=size_bytes, is_aligned=is_aligned
            )
            for piece in pieces:
                writer.write(piece)
            finished = writer.finish()
            files.fsync(fd)
    finally:
        files.close(fd)
    return finished
