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

MARK = "RELAUNCH_RUN_ID"


def marked_processes(run_id: str) -> list[int]:
    """Return the processes, this one excepted, which have the run's mark in their environment."""
    mark = f"{MARK}={run_id}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    found.append(int(name))
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return found


def sweep(run_id: str, bound_s: float = 2.0) -> list[int]:
    """Kill every marked process; look again until none is found, for at most `bound_s` seconds.

    Returns:
        Those still there: only a process in an uninterruptible sleep outlives SIGKILL.
    """
    end = time.monotonic() + bound_s
    while left := marked_processes(run_id):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() >= end:
            return left
        time.sleep(0.02)
    return []


def kill_group(pid: int) -> None:
    """Kill the process group of a rank; nothing happens when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def main() -> None:
    """Wait for the end of the lifeline on stdin, then clean up. Arguments: RUN_ID SCRATCH."""
    run_id, scratch = sys.argv[1:3]
    groups = set()
    for line in sys.stdin:
        if line.startswith("+"):
            groups.add(int(line[1:]))
        else:
            groups.discard(int(line[1:]))
    for pid in groups:
        kill_group(pid)
    sweep(run_id)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
