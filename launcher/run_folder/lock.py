"""One run at a time in a run folder: two would remove each other's unfinished checkpoints."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from strategies import ConfigError

WAIT_S = 15.0
"""A start that follows a kill at once must outwait the ranks of the killed one."""
_LOOK_EVERY_S = 0.2
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class FolderLock:
    """A POSIX lock on `<run folder>/.lock`, which ends with its process however that ends.

    Not inherited by forked children, and valid between the hosts of a shared file system where
    that has locks at all.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    @classmethod
    def take(
        cls,
        folder: Path,
        *,
        warn: Callable[[str], None],
        wait_s: float = WAIT_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> FolderLock:
        """Lock the folder for as long as this process lives. Called on the coordinator only.

        Args:
            folder: the run folder, which exists.
            warn: told when the file system has no locks; the run then goes on without.
            wait_s: how long another run may take to end.
            clock: seconds, monotonic.
            sleep: waits for some seconds.

        Raises:
            ConfigError: another run is still in the folder after `wait_s`.
            OSError: the lock file cannot be made.
        """
        file = (folder / ".lock").open("a+", encoding="utf-8")
        end = clock() + wait_s
        while not _try_lock(file, folder, warn):
            if clock() >= end:
                file.seek(0)
                raise ConfigError(
                    f"another run is at work in {folder} ({_owner(file.read())}). "
                    "Wait for its end, or choose another --run-dir."
                )
            sleep(_LOOK_EVERY_S)
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        file.flush()
        return cls(file)


def _try_lock(file: IO[str], folder: Path, warn: Callable[[str], None]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            warn(f"{folder} is on a file system without locks: start one run at a time in it.")
            return True
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    return True


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"pid {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "it has not said who it is"
