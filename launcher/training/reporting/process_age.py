"""How long a process has lived: what a start has cost until now."""

import os
from pathlib import Path

_START_TIME = 19
"""Of the fields of /proc/PID/stat after the name, see proc_pid_stat(5)."""


def age_s(*, of_launcher: bool, proc: Path = Path("/proc")) -> float:
    """Return the age of this process in seconds, or of its parent; 0 where it cannot be known.

    Args:
        of_launcher: the parent's, which is the launcher in a rank.
        proc: where the kernel tells.
    """
    pid = os.getppid() if of_launcher else os.getpid()
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        uptime_s = float((proc / "uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, uptime_s - int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK"))
