"""CRC-32 as in zlib and gzip: the checksum under each block of a shard.

ISA-L computes it three to ten times as fast as zlib does. There are builds of it for x86-64 and
64-bit ARM; elsewhere zlib gives the same number, more slowly.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32", "summing"]

_WORTH_A_THREAD_BYTES = 1 << 20


@contextmanager
def summing(block: memoryview) -> Iterator[Callable[[], int]]:
    """Sum up a block beside what is done with it: a disk that is waited for needs no processor.

    Yields:
        Returns the CRC-32 of the block, once it is left.
    """
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(crc32(block)), name="relaunch-crc32")
    if len(block) >= _WORTH_A_THREAD_BYTES and _started(thread):
        try:
            yield lambda: found[0]
        finally:
            thread.join()  # the reader of the block must be done when it is used again
    else:
        found.append(crc32(block))
        yield lambda: found[0]


def _started(thread: threading.Thread) -> bool:
    try:
        thread.start()
    except RuntimeError:  # the user or the control group may have no more threads
        return False
    return True
