"""The seam to object stores, by way of fsspec: https://filesystem-spec.readthedocs.io.

fsspec itself is an extra and imported by `locations.py`, when a URL is given.
"""

import errno
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import PurePath
from typing import Any, ClassVar

from ..format.names import draft_name, new_token
from .local_files import Files

WHOLE_BYTES = 16 * 1024 * 1024
"""Up to this size an object is put by one request; a larger one in parts."""

_PART_BYTES = 32 * 1024 * 1024
_FETCHED_BYTES = 8 * 1024 * 1024
_MAX_PARTS = 9_000
"""S3 takes 10,000."""

_FIRST_HANDLE = 1 << 40
"""No file descriptor is so high: one that is mistaken for a handle is not found."""

_MEANINGS = (
    (FileNotFoundError, errno.ENOENT, "No such object"),
    (IsADirectoryError, errno.EISDIR, "Is not an object"),
    (PermissionError, errno.EACCES, "Permission denied"),
)


class ObjectFiles(Files):
    """File operations on objects, as far as objects have them. Every method raises OSError.

    An object appears when it is complete: `fsync` puts it and asks for its size. One that is
    closed before was given up. There are no folders to make or to sync, and nothing is renamed.

    Args:
        filesystem: An `fsspec.AbstractFileSystem` that keeps no listings.
        puts_whole: Whether an object appears at once and complete. Where it does not, it is put
            under another name and moved.
    """

    renames_folders: ClassVar[bool] = False
    worth_reading_bytes: ClassVar[int] = 64 * 1024 * 1024

    def __init__(self, filesystem: Any, *, puts_whole: bool = True) -> None:
        self._filesystem = filesystem
        self._puts_whole = puts_whole
        self._handles = count(_FIRST_HANDLE)
        self._uploads: dict[int, _Upload] = {}
        self._reading: dict[int, PurePath] = {}

    def mkdir(self, path: PurePath) -> None:
        """Do nothing: an object store has no folders."""

    def make_dirs(self, path: PurePath) -> None:
        """Do nothing: an object store has no folders."""

    def create(self, path: PurePath) -> int:
        """Begin an upload; an object of this name is replaced when it is complete."""
        handle = next(self._handles)
        draft = path if self._puts_whole else path.with_name(draft_name(new_token()))
        self._uploads[handle] = _Upload(self._filesystem, path, draft)
        return handle

    def preallocate(self, fd: int, size_bytes: int) -> None:
        """Choose the size of the parts, of which a store takes so many only."""
        self._uploads[fd].part_bytes = max(_PART_BYTES, -(-size_bytes // _MAX_PARTS))

    def bypass_cache(self, fd: int) -> bool:
        """Do nothing: what is put in a store passes no page cache."""
        return False

    def pwrite(self, fd: int, data: memoryview, offset: int) -> int:
        """Append to an upload."""
        self._uploads[fd].append(data, offset)
        return len(data)

    def fsync(self, fd: int) -> None:
        """Put the object and compare its size. After an error it is lost: never call again."""
        self._uploads[fd].finish()

    def open(self, path: PurePath) -> int:
        """Return a handle for reading; whether the object is there is found by the first read."""
        handle = next(self._handles)
        self._reading[handle] = path
        return handle

    def pread(self, fd: int, into: memoryview, offset: int) -> int:
        """Fetch a range, and no more than it; a long one in several requests at once.

        One connection brings a fraction of what a store and a network give. Whether requests run
        side by side is up to the file system; those of S3, Google and Azure do that.
        """
        path, end = self._reading[fd], offset + len(into)
        starts = list(range(offset, end, _FETCHED_BYTES))
        ends = [*starts[1:], end]
        with _own_errors(path):
            parts = self._fetch(path, starts, ends)
        num_read = 0
        for part, start, last in zip(parts, starts, ends, strict=True):
            into[num_read : num_read + len(part)] = part
            num_read += len(part)
            if len(part) < last - start:
                break  # the object ends here
        return num_read

    def _fetch(self, path: PurePath, starts: list[int], ends: list[int]) -> list[bytes]:
        if len(starts) == 1:
            return [self._filesystem.cat_file(str(path), start=starts[0], end=ends[0])]
        parts = self._filesystem.cat_ranges([str(path)] * len(starts), starts, ends)
        for part in parts:
            if isinstance(part, Exception):
                raise part
        return list(parts)

    def close(self, fd: int) -> None:
        """Forget a handle; an upload that is not complete leaves nothing."""
        if self._reading.pop(fd, None) is None:
            self._uploads.pop(fd).give_up()

    def rename(self, old: PurePath, new: PurePath) -> None:
        """Refuse: it would be a copy, object by object."""
        raise OSError(errno.ENOTSUP, "an object store renames nothing", str(old))

    def link(self, old: PurePath, new: PurePath) -> None:
        """Refuse: an object has one name."""
        raise OSError(errno.ENOTSUP, "an object store links nothing", str(new))

    def free(self, at: PurePath | int) -> tuple[int, int | None]:
        """Refuse: a store does not tell."""
        raise OSError(errno.EOPNOTSUPP, "an object store does not tell what fits")

    def identity(self, path: PurePath) -> tuple[Hashable, int]:
        """Return the path, and 1: an object has one name."""
        return path, 1

    def fsync_dir(self, path: PurePath) -> None:
        """Do nothing: an object that was put has its name."""

    def listdir(self, path: PurePath) -> list[str]:
        """Return the names below a prefix, sorted."""
        with _own_errors(path):
            self._filesystem.invalidate_cache()
            found = self._filesystem.ls(str(path), detail=False)
        # Some stores list the folder itself, as an empty object.
        return sorted({PurePath(str(one)).name for one in found} - {path.name})

    def is_dir(self, path: PurePath) -> bool:
        """Return whether there are objects below this prefix."""
        return self._kind(path) == "directory"

    def exists(self, path: PurePath) -> bool:
        """Return whether there is an object, or anything below this prefix.

        Not fsspec's own `exists`, which takes a store that does not answer for one without it.
        """
        return self._kind(path) is not None

    def size(self, path: PurePath) -> int:
        """Return the size of an object in bytes."""
        with _own_errors(path):
            return _size(self._filesystem, path)

    def unlink(self, path: PurePath) -> None:
        """Remove an object."""
        with _own_errors(path):
            self._filesystem.rm_file(str(path))

    def rmtree(self, path: PurePath) -> None:
        """Remove all objects below a prefix."""
        with _own_errors(path):
            self._filesystem.rm(str(path), recursive=True)

    def _kind(self, path: PurePath) -> str | None:
        try:
            with _own_errors(path):
                self._filesystem.invalidate_cache()
                return str(self._filesystem.info(str(path))["type"])
        except FileNotFoundError:
            return None


class _Upload:
    """One object on its way."""

    def __init__(self, filesystem: Any, path: PurePath, draft: PurePath) -> None:
        self.part_bytes = _PART_BYTES
        self._filesystem = filesystem
        self._path = path
        self._draft = draft
        self._held: list[bytes] = []
        self._size_bytes = 0
        self._stream: Any = None
        self._is_complete = False

    def append(self, data: memoryview, offset: int) -> None:
        """Take the next bytes; the first of them are held, a larger object is streamed."""
        if offset != self._size_bytes:
            raise OSError(
                errno.ESPIPE, f"is written front to back, not at {offset}", str(self._path)
            )
        self._held.append(bytes(data))
        self._size_bytes += len(data)
        if self._size_bytes > WHOLE_BYTES:
            with _own_errors(self._path):
                self._send()

    def finish(self) -> None:
        """Complete the object and ask the store for its size."""
        with _own_errors(self._path):
            if self._stream is None:
                self._filesystem.pipe_file(str(self._draft), b"".join(self._held))
            else:
                self._stream.close()
            if self._draft != self._path:
                self._filesystem.mv(str(self._draft), str(self._path))
            found_bytes = _size(self._filesystem, self._path)
        if found_bytes != self._size_bytes:
            raise OSError(
                errno.EREMOTEIO,
                f"has {found_bytes} bytes after {self._size_bytes} were put",
                str(self._path),
            )
        self._is_complete = True

    def give_up(self) -> None:
        """Leave nothing of an object that is not complete; what stays is swept later.

        fsspec has no abort that works for all stores: a stream is closed, its object removed.
        """
        self._held.clear()
        if self._stream is None or self._is_complete:
            return
        with suppress(Exception):
            self._stream.close()
        with suppress(Exception):
            self._filesystem.rm_file(str(self._draft))

    def _send(self) -> None:
        if self._stream is None:
            self._stream = self._filesystem.open(str(self._draft), "wb", block_size=self.part_bytes)
        for piece in self._held:
            self._stream.write(piece)
        self._held.clear()


def _size(filesystem: Any, path: PurePath) -> int:
    filesystem.invalidate_cache()
    found = filesystem.info(str(path))
    if found["type"] != "file":
        raise IsADirectoryError(errno.EISDIR, "is not an object", str(path))
    return int(found["size"])


@contextmanager
def _own_errors(path: PurePath) -> Iterator[None]:
    """Map what fsspec and the libraries behind it raise to errors that say what they mean.

    Only an object that is not there may pass for a damaged checkpoint. A store that does not
    answer, or not to us, says nothing about it.
    """
    try:
        yield
    except Exception as error:
        for kind, number, meaning in _MEANINGS:
            if isinstance(error, kind):
                raise OSError(number, meaning, str(path)) from error
        if isinstance(error, OSError) and error.errno not in (None, errno.EIO):
            raise
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise OSError(errno.EREMOTEIO, text, str(path)) from error
