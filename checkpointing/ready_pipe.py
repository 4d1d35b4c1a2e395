"""How far an image in shared memory is whole: told by a rank to its writer process, on the way.

The bytes go through memory and this through a pipe. Its locks put the two in order, also on
processors where another core may see a number in memory before the bytes that it stands for.
"""

import os
import select
import struct
import sys
import threading
from contextlib import suppress

_MESSAGE = struct.Struct("<QQ")
"""The number of a request, and how many bytes of its image are there, from the first on."""
_MOST_AT_ONCE = 256 * _MESSAGE.size
"""A read takes whole messages: none is longer or shorter than these."""
_LOOK_S = 1.0


class ReadyTeller:
    """A rank's end. A thread may tell what another one closes."""

    def __init__(self) -> None:
        self.read_fd, self._fd = os.pipe()
        self._lock = threading.Lock()

    def tell(self, number: int, ready_bytes: int) -> None:
        """Say how much of the image of a request is there. Nobody may be left to hear it."""
        with self._lock, suppress(BrokenPipeError):
            # Not into what has got this number since.
            if self._fd >= 0:
                os.write(self._fd, _MESSAGE.pack(number, ready_bytes))

    def give_away(self) -> None:
        """Close the other end here: another process has it."""
        os.close(self.read_fd)

    def close(self) -> None:
        """Tell nothing any more."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1


class ReadyListener:
    """The writer process's end."""

    def __init__(self, fd: int, rank_pid: int) -> None:
        self._fd = fd
        self._rank_pid = rank_pid
        self._number = -1
        self._ready_bytes = 0

    def require_rank(self) -> None:
        """End this process if its rank is gone: nobody would commit what it writes."""
        if os.getppid() != self._rank_pid:
            sys.exit("the rank is gone")

    def wait_for(self, number: int, wanted_bytes: int) -> None:
        """Return once so many bytes of a request's image are there; ends with the rank."""
        if self._number != number:
            self._number, self._ready_bytes = number, 0
        self.require_rank()
        while self._ready_bytes < wanted_bytes:
            if not select.select([self._fd], [], [], _LOOK_S)[0]:
                self.require_rank()
                continue
            messages = os.read(self._fd, _MOST_AT_ONCE)
            if not messages:
                sys.exit("the rank is gone")
            for one, ready_bytes in _MESSAGE.iter_unpack(messages):
                # Those of a save that failed before may still be on their way.
                if one == number:
                    self._ready_bytes = ready_bytes
