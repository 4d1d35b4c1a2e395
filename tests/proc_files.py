"""What /proc has of processes that may end at any moment."""

import os
from contextlib import suppress
from pathlib import Path


def proc_bytes(pid: int, name: str) -> bytes:
    """A file of a process; nothing where it is gone, also between the opening and the reading."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def memory_files(pid: int, name: str) -> dict[str, int]:
    """How often a process has mapped memory files of this name, and descriptors of them."""
    marked = f"/memfd:{name}"
    targets = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            targets.append(os.readlink(link))
    maps = proc_bytes(pid, "maps").decode().splitlines()
    return {
        "maps": sum(marked in line for line in maps),
        "descriptors": sum(target.startswith(marked) for target in targets),
    }
