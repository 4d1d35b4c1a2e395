"""What /proc tells others about a forked process: its command and its environment."""

import contextlib
import ctypes
import os
from collections.abc import Mapping, Sequence

from ...contract.environment import RUN_ID


def rewrite_title(command: Sequence[str], environ: Mapping[str, str]) -> None:
    """Make /proc/PID/cmdline and /proc/PID/environ tell the truth after a fork.

    The kernel shows the memory that the exec filled, which a fork only copies: `ps` would show the
    launcher's command, and the guardian would not find the run's mark. What does not fit is cut
    off; the mark comes first. The caller has set this process's variables anew, so that nothing
    points into the old ones.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = _stat_fields()
        args_start, args_end, env_start, env_end = (int(field) for field in fields[45:49])
        words = b"\0".join(os.fsencode(word) for word in command)
        _fill(args_start, args_end, words)
        names = sorted(environ, key=lambda name: name != RUN_ID)
        lines = b"".join(os.fsencode(f"{name}={environ[name]}") + b"\0" for name in names)
        _fill(env_start, env_end, lines)


def _stat_fields() -> list[bytes]:
    """Return the fields of /proc/self/stat from the state (the third) on."""
    with open("/proc/self/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def _fill(start: int, end: int, data: bytes) -> None:
    """Overwrite the memory from start to end; the last byte stays 0, as the kernel expects."""
    size = end - start
    if size > 0:
        ctypes.memmove(start, data[: size - 1].ljust(size, b"\0"), size)
