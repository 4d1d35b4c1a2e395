"""A file whose bytes a store has already: it gets a second name instead of being written again."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath

from ..format.manifest import StoredFile
from .checksum import crc32
from .local_files import Files


def reuse_earlier(
    path: PurePath,
    earlier: PurePath,
    record: StoredFile,
    pieces: Callable[[], Iterable[memoryview]],
    *,
    files: Files,
) -> str | None:
    """Link an earlier file to a new name, if it holds the same bytes; return its name, or None.

    The checksums of all blocks are compared first, in memory, until one differs. Where a file can
    be linked, it is then read and compared byte by byte, so that one that was damaged since is not
    used again; the link is not durable on return. In an object store the earlier object itself is
    named, and only one in the same folder: it is deleted with that folder.

    Args:
        path: Must not exist.
        earlier: A file of a committed checkpoint.
        record: What its manifest says of it.
        pieces: The new content, each time it is called; all of it as long as the earlier file.
        files: How both are reached.
    """
    if not files.renames_folders and path.parent != earlier.parent:
        return None
    if not all(new == old for new, old in _sums(pieces(), record)):
        return None
    try:
        if not files.renames_folders:
            return earlier.name if files.size(earlier) == record.size_bytes else None
        if not _holds(earlier, pieces(), record, files):
            return None
        files.link(earlier, path)
    except OSError:
        return None  # gone, unreadable, or a file system without links: it is written again
    return path.name


def _sums(pieces: Iterable[memoryview], record: StoredFile) -> Iterator[tuple[int, int]]:
    """Yield the checksums of each block, of the new content and as recorded."""
    block, total, room = 0, 0, record.block_bytes
    for piece in pieces:
        rest = piece
        while len(rest):
            part, rest = rest[:room], rest[room:]
            total, room = crc32(part, total), room - len(part)
            if not room:
                yield total, record.crc32[block]
                block, total, room = block + 1, 0, record.block_bytes
    if block < len(record.crc32):
        yield total, record.crc32[block]


def _holds(path: PurePath, pieces: Iterable[memoryview], record: StoredFile, files: Files) -> bool:
    if files.size(path) != record.size_bytes:
        return False
    fd, at = files.open(path), 0
    try:
        for piece in pieces:
            for start in range(0, len(piece), record.block_bytes):
                part = piece[start : start + record.block_bytes]
                found = bytearray(len(part))
                # Of two bytearrays or buffers, this compares memory, not number by number.
                if files.read_all(fd, memoryview(found), at) != len(part) or found != part:
                    return False
                at += len(part)
    finally:
        files.close(fd)
    return at == record.size_bytes
