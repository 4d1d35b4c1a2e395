"""The launcher's own messages: on stderr, and never a reason to stop a run."""

import contextlib
import os
import threading

from .printable import printable_lines

STDOUT_FD = 1
STDERR_FD = 2
CLOSED_PIPE = 141
"""The exit code where nobody reads stdout any more: 128 + SIGPIPE, as of other programs."""

_one_writer = threading.Lock()


def say(text: str) -> None:
    """Print lines of the launcher's own on stderr, each with its name in front.

    They may name what others have written: nothing in them moves a terminal.
    """
    shown = printable_lines(text).removesuffix("\n")
    lines = "".join(f"relaunch: {line}\n" if line else "\n" for line in shown.split("\n"))
    write(STDERR_FD, lines.encode(errors="replace"))


def end_of_output() -> int | None:
    """Return CLOSED_PIPE where the reader of stdout is gone, such as `head`; else None.

    What Python still holds for stdout goes nowhere then.
    """
    import select  # `--help` is kept to a few modules

    poll = select.poll()
    poll.register(STDOUT_FD, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return None
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT_FD)
    os.close(nowhere)
    return CLOSED_PIPE


def is_screen(fd: int) -> bool:
    """Return whether somebody looks at a terminal there.

    A pseudo-terminal without columns is only somebody's pipe: `srun -u` makes one for each task.
    """
    try:
        return os.isatty(fd) and os.get_terminal_size(fd).columns > 0
    except OSError:
        return False


def write(fd: int, data: bytes) -> None:
    """Write all the bytes, whole lines undivided; a console that went away is not an error."""
    with _one_writer, contextlib.suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]
