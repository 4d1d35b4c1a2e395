"""Wait until file descriptors can be read; for every package, with the standard library alone."""

import math
import select
from collections.abc import Iterable


def readable(fds: Iterable[int], timeout_s: float) -> list[int]:
    """Wait until there is something to read; return the descriptors with data or at their end.

    By poll: select takes no descriptor from 1,024 on, and a script may have so many files open.

    Args:
        fds: of pipes, sockets, processes (pidfd) or events.
        timeout_s: the longest wait; rounded up to milliseconds.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(math.ceil(1000 * timeout_s))]
