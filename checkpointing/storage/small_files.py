"""Small files, written and read whole."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

from ..errors import DamagedCheckpointError
from ..format.manifest import MAX_TEXT_BYTES
from .local_files import Files

# What a lost, replaced or unreadable file answers. Anything else (no permission, no descriptor
# left) says nothing about the checkpoint and must not make anyone fall back behind it.
_DAMAGE = (errno.ENOENT, errno.EIO, errno.ELOOP, errno.EISDIR, errno.ENOTDIR)


@contextmanager
def reading(path: PurePath) -> Iterator[None]:
    """Map the OSErrors that mean damage.

    Raises:
        DamagedCheckpointError: Naming the file.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise
        raise DamagedCheckpointError(path, f"cannot be read: {error.strerror}") from error


def read_whole(path: PurePath, files: Files) -> bytes:
    """Return all bytes of a regular file.

    Raises:
        DamagedCheckpointError: If it is missing, not a regular file, unreadable, or larger than
            any that this package writes.
    """
    with reading(path):
        size_bytes = files.size(path)
        if size_bytes > MAX_TEXT_BYTES:
            raise DamagedCheckpointError(
                path, f"has {size_bytes} bytes; such a file has {MAX_TEXT_BYTES} at most"
            )
        content = bytearray(size_bytes)
        fd = files.open(path)
        try:
            num_read = files.read_all(fd, memoryview(content), 0)
        finally:
            files.close(fd)
    if num_read < len(content):
        raise DamagedCheckpointError(path, f"ends at byte {num_read} of {len(content)}")
    return bytes(content)


def remove(path: PurePath, files: Files) -> None:
    """Remove a folder with all that is in it, or a file.

    Raises:
        FileNotFoundError: There is neither.
        OSError: From the storage.
    """
    if files.is_dir(path):
        files.rmtree(path)
    else:
        files.unlink(path)


def write_durably(path: PurePath, content: bytes, files: Files) -> None:
    """Write a new file and sync it; its name is not yet durable.

    Raises:
        OSError: From the disk.
    """
    fd = files.create(path)
    try:
        files.write_all(fd, memoryview(content), 0)
        files.fsync(fd)
    finally:
        files.close(fd)
