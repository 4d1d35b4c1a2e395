"""A small process that outlives the launcher by a moment and ends all that the run left behind.

Run as a file with `python -I -S`, so it imports the standard library only. It reads the lifeline
pipe: "+PID" and "-PID" name the process groups of the ranks. At the end of the file, which comes
however the launcher ends, it kills those groups and every process that carries the run's mark.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD among the flags of /proc/PID/stat."""


def look(mark: str, proc: str = "/proc") -> tuple[set[int], set[int]]:
    """Look for the processes which have the run's mark in their environment, this one excepted.

    Returns:
        Those with the mark, and those whose environment cannot be seen at this moment: amid an
        exec the old one is gone and the new one not there yet.
    """
    marked, unseen = set(), set()
    for name in os.listdir(proc):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"{proc}/{name}/environ", "rb") as file:
                environ = file.read()
            if os.fsencode(mark) in environ.split(b"\0"):
                marked.add(int(name))
            elif not environ and _is_program(f"{proc}/{name}/stat"):
                unseen.add(int(name))
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return marked, unseen


def _is_program(stat: str) -> bool:
    """Tell a living program from a kernel thread and from what has ended: these have nothing."""
    with open(stat, "rb") as file:
        state, *numbers = file.read().rpartition(b")")[2].split()
    return state not in (b"Z", b"X") and not int(numbers[5]) & _KERNEL_THREAD


def sweep(mark: str, bound_s: float = 2.0) -> list[int]:
    """Kill every marked process; look again until none is found, for at most `bound_s` seconds.

    Returns:
        Those still there: only a process in an uninterruptible sleep outlives SIGKILL.
    """
    end = time.monotonic() + bound_s
    left, unseen = look(mark)
    empty: set[int] = set()  # some programs have an empty environment for good
    while left or unseen - empty:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() >= end:
            return sorted(left)
        time.sleep(0.02)
        empty |= unseen
        left, unseen = look(mark)
    return []


def kill_group(pid: int) -> None:
    """Kill the process group of a rank; nothing happens when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def main() -> None:
    """Wait for the end of the lifeline on stdin, then clean up. Arguments: MARK SCRATCH."""
    mark, scratch = sys.argv[1:3]
    groups = set()
    for line in sys.stdin:
        if line.startswith("+"):
            groups.add(int(line[1:]))
        else:
            groups.discard(int(line[1:]))
    for pid in groups:
        kill_group(pid)
    sweep(mark)
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)  # the launcher waits for this: nothing is left to be taken apart


if __name__ == "__main__":
    main()
