"""How far an image in shared memory is whole: reported by a rank to its writer process, on the way.

The bytes go through memory and this through a pipe. Its locks put the two in order, also on
processors where another core may see a number in memory before the bytes that it stands for.
"""

import os
import struct
import sys
import threading

from ..readable import readable

_MESSAGE = struct.Struct("<QQ")
"""The number of a request, and how many bytes of its image are there, from the first on."""
_MOST_AT_ONCE = 256 * _MESSAGE.size
"""A read takes whole messages: none is longer or shorter than these."""
_LOOK_S = 1.0


class ReadyTeller:
    """A rank's end, and what it gives to its writer processes. One may close what another tells."""

    def __init__(self) -> None:
        self.read_fd, self._fd = os.pipe()
        self._lock = threading.Lock()

    def tell(self, number: int, ready_bytes: int) -> None:
        """Report how much of a request's data is copied; rarely, as nobody may read yet."""
        with self._lock:
            # Not into what has got this number since.
            if self._fd >= 0:
                os.write(self._fd, _MESSAGE.pack(number, ready_bytes))

    def close(self) -> None:
        """Report nothing any more."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                os.close(self.read_fd)
            self._fd = -1


class ReadyListener:
    """The writer process's end."""

    def __init__(self, fd: int, rank_pid: int) -> None:
        self._fd = fd
        self._rank_pid = rank_pid
        self._number = -1
        self._ready_bytes = 0

    def begin(self, number: int) -> None:
        """Listen for messages about a request from now on.

        What is left of those before is taken out: a disk that refuses every save at once would
        leave it all there, and a full pipe blocks the sender.
        """
        self._number, self._ready_bytes = number, 0
        while readable([self._fd], 0.0) and self._take():
            pass

    def wait_for(self, wanted_bytes: int) -> None:
        """Return once so many bytes of the image are there; ends this process with its rank."""
        self._require_rank()
        while self._ready_bytes < wanted_bytes:
            if not readable([self._fd], _LOOK_S):
                self._require_rank()
            elif not self._take():
                sys.exit("the rank is gone")

    def _require_rank(self) -> None:
        if os.getppid() != self._rank_pid:
            sys.exit("the rank is gone")  # nobody would commit what is written

    def _take(self) -> bool:
        """Read what is there; return whether the rank may tell more."""
        messages = os.read(self._fd, _MOST_AT_ONCE)
        for number, ready_bytes in _MESSAGE.iter_unpack(messages):
            if number == self._number:
                self._ready_bytes = ready_bytes
        return bool(messages)
