"""One run at a time in a run folder: two would mix their records and checkpoints."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from strategies import ConfigError, StrategyError

from .plain_files import open_plain, write_all

LOCK = ".lock"
WAIT_S = 15.0
"""A start that follows a kill at once must outwait the ranks of the killed one."""
LEASE_S = 120.0
"""A file server keeps the lock of a host that is gone for its lease, 90 s by default (NFSv4)."""
REPORT_S = 30.0
_LOOK_EVERY_S = 0.2
_MOST_BYTES = 4096
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_FLOCK = "hhqqi"
_WHOLE_FILE = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class FolderUnavailableError(ConfigError):
    """A start cannot have the folder: another run holds it, or there is no room."""

    def __init__(self, sentence: str, *, may_pass: bool) -> None:
        super().__init__(sentence)
        self.may_pass = may_pass
        """The same command may well work later."""


class FolderTakenError(StrategyError):
    """Another run has taken the folder of this one, which must write nothing there any more."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The content of a lock file."""

    host: str | None = None
    pid: int | None = None
    word: str | None = None
    """By which a holder knows its own lock again."""

    @classmethod
    def parse(cls, text: bytes) -> Owner:
        """Read it; what is not there is None."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(found, dict):
            return cls()
        host, pid, word = (found.get(name) for name in ("host", "pid", "word"))
        return cls(
            host=host if isinstance(host, str) else None,
            pid=pid if isinstance(pid, int) else None,
            word=word if isinstance(word, str) else None,
        )

    def __str__(self) -> str:
        if self.host is None or self.pid is None:
            return "it has not said who it is"
        return f"pid {self.pid} on {self.host}"


def may_be_gone(owner: Owner, host: str, is_alive: Callable[[int], bool]) -> bool:
    """Return whether a lock may outlive its holder: a file server keeps it, or a process it left.

    Args:
        owner: what the lock file says.
        host: this one.
        is_alive: tells whether a process of this host is there.
    """
    if owner.host is None or owner.pid is None:
        return False
    return owner.host != host or not is_alive(owner.pid)


class FolderLock:
    """A lock on `<run folder>/.lock`, which ends with its process however that ends.

    It belongs to an open file description: other descriptors of the file may be opened and closed
    in this process, as by a script that copies its run folder, and it stays. Forked children close
    theirs. It is valid between the hosts of a shared file system where that has locks at all.
    """

    def __init__(self, path: Path, fd: int, word: str) -> None:
        self._path = path
        self._fd = fd
        self._word = word
        _HELD[_inode(fd)] = self

    @classmethod
    def take(
        cls,
        folder: Path,
        *,
        warn: Callable[[str], None],
        wait_s: float = WAIT_S,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> FolderLock:
        """Lock the folder for as long as this process lives. Called on the coordinator only.

        Args:
            folder: the run folder, which exists.
            warn: called when the file system has no locks; the run continues without. Also of a
                long wait, every 30 s.
            wait_s: how long another run may take to end.
            lease_s: how long to wait where its holder may be gone.
            clock: seconds, monotonic.
            sleep: waits for some seconds.

        Raises:
            FolderUnavailableError: another run is still in the folder.
            OSError: the lock file cannot be made.
        """
        path, began_s = folder / LOCK, clock()
        report_s = began_s + REPORT_S
        while True:
            lock, owner = _try_to_take(path, warn)
            if lock is not None:
                return lock
            is_lost = may_be_gone(owner, socket.gethostname(), _is_alive)
            most_s, now_s = max(wait_s, lease_s if is_lost else 0.0), clock()
            if now_s - began_s >= most_s:
                raise FolderUnavailableError(
                    f"another run is at work in {folder} ({owner}). "
                    "Wait for its end, or choose another --run-dir.",
                    may_pass=is_lost,
                )
            if now_s >= report_s:
                report_s += REPORT_S
                left_s = most_s - (now_s - began_s)
                warn(
                    f"the lock of {folder} is held ({owner}), by a run that may be gone: waiting "
                    f"for it for up to {left_s:.0f} s more."
                )
            sleep(_LOOK_EVERY_S)

    def require_held(self) -> None:
        """Take the lock again, which costs nothing where it is held, before something is published.

        A server may have revoked it, or somebody removed the folder or the file.

        Raises:
            FolderTakenError: another run has it.
        """
        # What cannot be seen is no other run; the save, which needs the same disk, will say it.
        with suppress(OSError):
            if not self._is_still_held():
                self._take_anew()

    def is_ours(self) -> bool:
        """Return whether no other run has it, as `require_held` does."""
        try:
            self.require_held()
        except FolderTakenError:
            return False
        return True

    def _is_still_held(self) -> bool:
        """Return whether this descriptor holds the lock of this path.

        Raises:
            FolderTakenError: another run has it.
        """
        try:
            if not _is_at(self._path, self._fd):
                return False
            is_locked = lock_file(self._fd) is not False
            owner = Owner.parse(os.pread(self._fd, _MOST_BYTES, 0))
        except OSError:  # a server has lost it, or the script has closed what it had not opened
            return False
        if not is_locked or owner.word not in (None, self._word):
            raise _taken(self._path, owner)
        return True

    def _take_anew(self) -> None:
        """Take it through another descriptor.

        Raises:
            FolderTakenError: another run has it.
            OSError: from the file system.
        """
        mine = [inode for inode, lock in _HELD.items() if lock is self]
        for inode in mine:
            del _HELD[inode]
        try:
            lock, owner = _try_to_take(self._path, lambda sentence: None)
        except OSError:
            _HELD.update(dict.fromkeys(mine, self))
            raise
        if lock is not None:
            self._fd, self._word = lock._fd, lock._word
            _HELD[_inode(self._fd)] = self
        elif owner.word == self._word:  # by the former descriptor, which only cannot be asked
            _HELD.update(dict.fromkeys(mine, self))
        else:
            raise _taken(self._path, owner)


_HELD: dict[tuple[int, int], FolderLock] = {}
"""The locks of this process: two runs that follow each other in it may share one."""


def is_held(folder: Path) -> bool:
    """Return whether a run is at work in a folder; no, where that cannot be asked."""
    with suppress(OSError):
        fd = open_plain(folder / LOCK, os.O_RDONLY)
        try:
            found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE_FILE)
        finally:
            os.close(fd)
        return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)
    return False


def _try_to_take(path: Path, warn: Callable[[str], None]) -> tuple[FolderLock | None, Owner]:
    """Return the lock, or its holder."""
    fd = open_plain(path, os.O_RDWR | os.O_CREAT)
    try:
        if (held := _HELD.get(_inode(fd))) is not None:
            os.close(fd)
            return held, Owner()
        is_locked = lock_file(fd)
        if is_locked is False:
            owner = Owner.parse(os.pread(fd, _MOST_BYTES, 0))
            os.close(fd)
            return None, owner
    except OSError:
        os.close(fd)
        raise
    if not _is_at(path, fd):
        os.close(fd)  # removed meanwhile, or replaced: the next look finds what is there
        return None, Owner()
    if is_locked is None:
        warn(f"{path.parent} is on a file system without locks: start one run at a time in it.")
    word = secrets.token_hex(8)
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "word": word})
    with suppress(OSError):  # the disk is full: the lock holds without
        os.ftruncate(fd, 0)
        write_all(fd, text.encode())
    return FolderLock(path, fd, word), Owner()


def lock_file(fd: int) -> bool | None:
    """Lock an open file description; return whether it is locked, None: there are no locks.

    Raises:
        OSError: from the file system.
    """
    for lock in (_lock_description, _flock):
        try:
            lock(fd)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            return True
    return None


def _lock_description(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)


def _flock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _taken(path: Path, owner: Owner) -> FolderTakenError:
    return FolderTakenError(
        f"another run has taken {path.parent} ({owner}): this one ends, and commits nothing more "
        "there. Start one run at a time in a folder, or choose another --run-dir."
    )


def _inode(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _is_at(path: Path, fd: int) -> bool:
    """Return whether a path still leads to an open file.

    Raises:
        OSError: From the file system, for another reason than that nothing is there.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == _inode(fd)


def _is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _close_in_child() -> None:
    for inode, lock in _HELD.items():
        with suppress(OSError):
            if _inode(lock._fd) == inode:  # else it is another file's by now
                os.close(lock._fd)
    _HELD.clear()


os.register_at_fork(after_in_child=_close_in_child)
