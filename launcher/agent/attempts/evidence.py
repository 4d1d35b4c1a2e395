"""What speaks for the cause of a failure: a rank's exception, the kernel's OOM killer."""

import re
from collections.abc import Sequence
from pathlib import Path

from ...plan.machine import own_cgroups

_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(:|$)")
_FATAL = re.compile(r"Fatal Python error: .*|.*\bterminate called after throwing\b.*")
_UNLIKE = "Is there a distributed collective mismatch in your code?"
"""What gloo asks before it ends the process, where it gets another message than it waits for."""
UNLIKE_COLLECTIVES = (
    "This rank and another took part in different collectives at the same time. Every rank must do "
    "the same in every micro-batch: look for what one does alone, such as a collective of the "
    "script's own under `if rank == 0` or, under fsdp and zero3, whose forward gathers weights, a "
    "layer that is called or whose weight is read only by chance or for some samples."
)
_PACKAGE = re.escape(str(Path(__file__).parents[2]))
_OWN_FRAME = re.compile(rf'\s*File "{_PACKAGE}/\S+", line \d+ in \w+$')
"""As faulthandler writes it; a traceback has a comma before "in"."""
_LONGEST = 2000
_RANK = re.compile(r"\[rank\d+\]: ")
"""What torch puts in front of each line of a traceback once there is a process group."""


def without_launcher(lines: Sequence[str]) -> list[str]:
    """Return a rank's last lines without the frames of the launcher that it was forked from; pure.

    The stack of a native crash goes down to them, and they would fill what is shown of it.
    """
    return [line for line in lines if not _OWN_FRAME.match(line)]


def exception_of(lines: Sequence[str]) -> str | None:
    """Return the exception that ended a Python program, from the last lines it wrote; pure.

    That is the line after the last traceback's frames; a message of several lines is cut there.
    """
    lines = [_RANK.sub("", line, count=1) if _RANK.match(line) else line for line in lines]
    fatal = next((line for line in reversed(lines) if _FATAL.fullmatch(line)), None)
    starts = [number for number, line in enumerate(lines) if line.strip() == _TRACEBACK]
    for line in lines[starts[-1] + 1 :] if starts else ():
        if line and not line[0].isspace() and _EXCEPTION.match(line):
            return line[:_LONGEST]
    if fatal is not None and any(_UNLIKE in line for line in lines):
        return f"{fatal}. {UNLIKE_COLLECTIVES}"
    return fatal


def oom_kills(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many processes of this cgroup the OOM killer has ended; 0 where unreadable."""
    for controllers, path in own_cgroups(proc):
        # In a container the path is the host's, and the own group is mounted at the root.
        for place in (path, ""):
            if controllers == "":
                file = root / place / "memory.events"
            elif "memory" in controllers.split(","):
                file = root / "memory" / place / "memory.oom_control"
            else:
                continue
            if (count := _field(file, "oom_kill")) is not None:
                return count
    return 0


def _field(file: Path, name: str) -> int | None:
    try:
        for line in file.read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        return None
    return None
