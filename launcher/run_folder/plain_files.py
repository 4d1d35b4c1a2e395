"""Files of a run folder that others may write to, too: never through a link that somebody left."""

import errno
import os
import stat
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""Of errors of the disk those that may pass."""


def open_plain(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a regular file by its very name; return the descriptor, which no program inherits.

    Raises:
        OSError: It is a link or no regular file (ELOOP), or the file system's own reason.
    """
    # Without O_NONBLOCK a pipe of that name would keep the caller for ever.
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ELOOP, "it is no regular file", str(path))
    return fd


def write_all(fd: int, data: bytes) -> None:
    """Write everything, or raise.

    Raises:
        OSError: From the disk; a part may have been written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, durable.

    Raises:
        OSError: From the disk.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_text(path: Path, text: str) -> None:
    """Give a file a new content, of which a reader never sees half.

    Where the path is a link, the link is replaced, not what it points to.

    Raises:
        OSError: From the disk; the file is as it was then.
    """
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)  # of a killed process; or a link, which must not be followed
    fd = open_plain(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            write_all(fd, text.encode())
        finally:
            os.close(fd)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def require_plain(path: Path) -> None:
    """Refuse a name that is taken by something else than a regular file.

    Raises:
        OSError: ELOOP, or the file system's own reason.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        what = "it is a link" if stat.S_ISLNK(mode) else "it is no regular file"
        raise OSError(errno.ELOOP, f"{what}; remove it", str(path))
