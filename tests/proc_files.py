"""What /proc has of processes that may end at any moment."""

from pathlib import Path


def proc_bytes(pid: int, name: str) -> bytes:
    """A file of a process; nothing where it is gone, also between the opening and the reading."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
