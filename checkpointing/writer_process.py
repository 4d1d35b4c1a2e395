"""The program of the process that writes shards while the training goes on.

It imports the standard library and isal only (and fsspec for a URL), reads the shard's image
from shared memory, and neither knows the other ranks nor commits anything: that a shard was
written is all it reports.
"""

import json
import mmap
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath

from .block_writer import write_new_file
from .errors import PlaceError
from .files import LOCAL_FILES, Files
from .places import is_url, place_at

# The rank is told to leave and decides what becomes of a save: these are not for its writer.
_NOT_FOR_US = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def serve(files: Files = LOCAL_FILES) -> None:
    """Write one file for each line on stdin and answer with one line each, until stdin ends.

    The last argument of the command is the descriptor of the shared memory.
    """
    for signum in _NOT_FOR_US:
        signal.signal(signum, signal.SIG_IGN)
    parent = os.getppid()
    memory_fd = int(sys.argv[-1])
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line), memory_fd, parent, files)), flush=True)


def _answer(request: dict[str, object], memory_fd: int, parent: int, files: Files) -> object:
    text, size_bytes = str(request["path"]), int(str(request["size_bytes"]))
    path: PurePath = Path(text)
    block_bytes = int(str(request["block_bytes"]))
    try:
        if is_url(text):
            place = place_at(text)
            path, files = place.folder, place.files
        # Not closed by hand: an error's traceback may still hold a piece of it.
        memory = mmap.mmap(memory_fd, size_bytes, prot=mmap.PROT_READ)
        _, crc32 = write_new_file(
            path,
            _blocks(memoryview(memory), block_bytes, parent),
            size_bytes,
            files=files,
            block_bytes=block_bytes,
            is_aligned=True,
        )
    except (OSError, PlaceError) as error:
        return {"error": f"{text}: {error}"}
    return {"value": list(crc32)}


def _blocks(image: memoryview, block_bytes: int, parent: int) -> Iterator[memoryview]:
    for start in range(0, len(image), block_bytes):
        if os.getppid() != parent:
            sys.exit("the rank is gone")  # nobody will commit what would be written
        yield image[start : start + block_bytes]


if __name__ == "__main__":
    serve()
