"""Who listens on a port of this machine."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

_LISTEN = "0A"
_PROC = Path("/proc")


def describe_holder(port: int) -> str | None:
    """Return "python (pid 4711, user alice)", as far as it can be seen; None: nobody is found."""
    for inode, uid in _listeners(port):
        user = _user_name(uid)
        pid = _process_with(inode)
        if pid is None:
            return f"a process of user {user}"
        try:
            name = (_PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            name = "a process"
        return f"{name} (pid {pid}, user {user})"
    return None


def _listeners(port: int) -> Iterator[tuple[str, int]]:
    """Yield (inode of the socket, user id) for each listener on the port."""
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, _, _, _, uid, _, inode, *_ = line.split()
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                yield inode, int(uid)


def _process_with(inode: str) -> int | None:
    target = f"socket:[{inode}]"
    for process in _PROC.iterdir():
        if not process.name.isdigit():
            continue
        try:
            for fd in (process / "fd").iterdir():
                if os.readlink(fd) == target:
                    return int(process.name)
        except OSError:
            continue  # another user's, or it has just ended
    return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
