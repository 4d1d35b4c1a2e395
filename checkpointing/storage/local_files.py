"""The one seam between this package and its storage.

Every file operation of the package is a method of `Files`, so a test can count them, fail the
n-th one, or kill the process around it. Each method is one system call, or a loop over one.
"""

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import ClassVar

from .filesystems import filesystem_type, is_in_memory, takes_direct_writes

# Filesystems without preallocation answer with one of these; every other error is a real one.
_NO_PREALLOCATION = (errno.EOPNOTSUPP, errno.EINVAL)


def kernel_text(path: str) -> str:
    """Return the text of one of the kernel's own files, "" where there is none: a sandbox."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _kind_of(fd: int) -> str | None:
    """Return the type of the filesystem on which a file is, None where that is not known."""
    device = os.fstat(fd).st_dev
    mounts = kernel_text("/proc/self/mountinfo")
    return filesystem_type(mounts, os.major(device), os.minor(device))


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Files:
    """File operations on the local or a shared filesystem. Every method raises OSError."""

    renames_folders: ClassVar[bool] = True
    """Whether a folder with all that is in it gets another name in one step."""

    worth_reading_bytes: ClassVar[int] = 0
    """Up to so much is better read at once than block by block."""

    def mkdir(self, path: PurePath) -> None:
        """Make one folder, which must not exist."""
        os.mkdir(path)

    def make_dirs(self, path: PurePath) -> None:
        """Make a folder and what is missing above it, each durably; it may exist."""
        if self.is_dir(path):
            return
        if path.parent != path and not self.exists(path.parent):
            self.make_dirs(path.parent)
        try:
            self.mkdir(path)
        except FileExistsError:
            # A link to a folder, or one that another process made in the meantime, will do.
            if not os.path.isdir(path):
                raise
            return
        self.fsync_dir(path.parent)

    def create(self, path: PurePath) -> int:
        """Create a file that must not exist; return a descriptor for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def open(self, path: PurePath) -> int:
        """Return a descriptor for reading; a symbolic link is refused with ELOOP."""
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def preallocate(self, fd: int, size_bytes: int) -> None:
        """Reserve the space of a file, so that a full disk is found before the first byte.

        A filesystem without preallocation (EOPNOTSUPP, EINVAL) reserves nothing, nor does one in
        memory, where it would be as much work as a write; the writes that follow then find it full.
        """
        if is_in_memory(_kind_of(fd)):
            return
        try:
            os.posix_fallocate(fd, 0, size_bytes)
        except OSError as error:
            if error.errno not in _NO_PREALLOCATION:
                raise

    def bypass_cache(self, fd: int) -> bool:
        """Let the next writes go to the disk itself, where that pays; tell whether they do.

        Their addresses, offsets and lengths must then be multiples of 4096.
        """
        if not takes_direct_writes(_kind_of(fd)):
            return False
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:  # what a filesystem without direct writes answers
                raise
            return False
        return True

    def use_cache(self, fd: int) -> None:
        """Let the next writes go through the page cache again, from any address to any offset."""
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        """Write at an offset; return the bytes written, which may be fewer than given."""
        return os.pwrite(fd, data, offset)

    def write_all(self, fd: int, data: memoryview, offset: int) -> None:
        """Write all bytes at an offset, going on after short writes."""
        done = 0
        while done < len(data):
            written = self.pwrite(fd, data[done:], offset + done)
            if written == 0:
                raise OSError(errno.EIO, f"wrote 0 of {len(data) - done} bytes at {offset + done}")
            done += written

    def pread(self, fd: int, into: memoryview, offset: int) -> int:
        """Read at an offset; return the bytes read, which may be fewer than asked for."""
        return os.preadv(fd, [into], offset)

    def read_all(self, fd: int, into: memoryview, offset: int) -> int:
        """Fill a buffer from an offset; return the bytes read, fewer only at the file's end."""
        done = 0
        while done < len(into):
            num_read = self.pread(fd, into[done:], offset + done)
            if num_read == 0:
                break
            done += num_read
        return done

    def fsync(self, fd: int) -> None:
        """Make the bytes of a file durable. After an error the file is lost: never call again."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor. After an error (NFS: lost bytes) it is closed all the same."""
        os.close(fd)

    def rename(self, old: PurePath, new: PurePath) -> None:
        """Rename atomically within one filesystem; one of the two names is used only once.

        NFS may lose the reply to a rename that took place and fail when it asks again. Whoever
        believed that would remove the only folder of a checkpoint as a leftover.
        """
        was_there = os.path.lexists(old)
        try:
            os.rename(old, new)
        except OSError:
            took_place = was_there and not os.path.lexists(old) and os.path.lexists(new)
            if not took_place:
                raise

    def link(self, old: PurePath, new: PurePath) -> None:
        """Give a file a second name, which must not exist; not every filesystem can."""
        os.link(old, new, follow_symlinks=False)

    def fsync_dir(self, path: PurePath) -> None:
        """Make the names in a folder durable: files created, renamed and removed in it."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def listdir(self, path: PurePath) -> list[str]:
        """Return the names in a folder, sorted."""
        return sorted(os.listdir(path))

    def is_dir(self, path: PurePath) -> bool:
        """Return whether this is a folder, and not a link to one."""
        try:
            return stat.S_ISDIR(os.lstat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def exists(self, path: PurePath) -> bool:
        """Return whether there is anything of this name, following links."""
        return os.path.exists(path)

    def size(self, path: PurePath) -> int:
        """Return the size in bytes of a regular file; a link or anything else is refused."""
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            code = errno.ELOOP if stat.S_ISLNK(status.st_mode) else errno.EISDIR
            raise OSError(code, "is not a regular file", str(path))
        return status.st_size

    def identity(self, path: PurePath) -> tuple[Hashable, int]:
        """Return what is the same for all names of a file, and how many names it has."""
        status = os.lstat(path)
        return (status.st_dev, status.st_ino), status.st_nlink

    def free(self, at: PurePath | int) -> tuple[int, int | None]:
        """Return the bytes and the files that still fit on the disk of a path or a descriptor.

        The part of a descriptor's file that is written counts as free. None files: the filesystem
        does not count them.
        """
        found = os.statvfs(at)
        held_bytes = os.fstat(at).st_blocks * 512 if isinstance(at, int) else 0
        free_bytes = found.f_bavail * found.f_frsize + held_bytes
        return free_bytes, found.f_favail if found.f_files else None

    def unlink(self, path: PurePath) -> None:
        """Remove a file."""
        os.unlink(path)

    def rmtree(self, path: PurePath) -> None:
        """Remove a folder with all that is in it, following no links."""
        shutil.rmtree(path)


LOCAL_FILES = Files()


@contextmanager
def full_disk_told(
    at: PurePath | int, files: Files, needed_bytes: int | None = None
) -> Iterator[None]:
    """Add to the error of a full disk what there is, and what was needed.

    Args:
        at: A path or a descriptor on that disk.
        files: How to reach it.
        needed_bytes: What the body writes; None: little.

    Raises:
        OSError: What the body raises.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        text = error.strerror or os.strerror(error.errno)
        needed = () if needed_bytes is None else (f"{_size_text(needed_bytes)} are needed",)
        told = ", ".join((*needed, *_free_text(at, files, error.errno)))
        name = () if error.filename is None else (error.filename,)
        raise OSError(error.errno, f"{text} ({told})" if told else text, *name) from error


def _free_text(at: PurePath | int, files: Files, code: int) -> tuple[str, ...]:
    if code == errno.EDQUOT:
        return ()  # of a quota the disk tells nothing
    try:
        free_bytes, free_files = files.free(at)
    except OSError:
        return ()
    few = () if free_files is None or free_files > 99 else (f"{free_files} more files fit on it",)
    return f"the disk has {_size_text(free_bytes)} free", *few


def _size_text(size_bytes: int) -> str:
    is_large = size_bytes >= 2**20
    return f"{size_bytes / 2**20:.1f} MiB" if is_large else f"{size_bytes / 2**10:.1f} KiB"
