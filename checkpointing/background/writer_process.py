"""The program of the process that does a rank's work on the disk while the training continues.

It imports the standard library and isal only (and fsspec for a URL), and does what its rank asks
for: write a shard from an image in shared memory, publish what all ranks have written, remove what
is no checkpoint any more. It decides nothing and knows no other rank.
"""

import json
import mmap
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePath

from ..errors import PlaceError, SaveFailedError
from ..format.json_fields import Fields
from ..format.names import is_object
from ..format.strict_json import JSON
from ..storage.block_writer import write_new_file
from ..storage.local_files import LOCAL_FILES, Files
from ..storage.locations import is_url, place_at, publishing_of
from .copy_progress import ReadyListener

# The rank gets the notice and decides what becomes of a save: these are not for its writer.
NOT_FOR_US = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def serve(files: Files = LOCAL_FILES) -> None:
    """Carry out one request for each line on stdin, with one line as answer, until stdin ends.

    The last two arguments of the command are descriptors: of the shared memory, and of the pipe
    that tells how far what is in it is whole.
    """
    for signum in NOT_FOR_US:
        signal.signal(signum, signal.SIG_IGN)
    memory_fd, ready_fd = (int(word) for word in sys.argv[-2:])
    ready = ReadyListener(ready_fd, os.getppid())
    bench = _Bench(memory_fd=memory_fd, ready=ready, files=files)
    for line in sys.stdin:
        request = json.loads(line)
        number = request.pop("id")
        if request["kind"] == "write":  # messages about it may have come before its turn
            ready.begin(number)
        print(json.dumps({"id": number, **_answer(request, bench)}), flush=True)


class _Bench:
    """What the requests work with."""

    def __init__(self, *, memory_fd: int, ready: ReadyListener, files: Files) -> None:
        self._ready = ready
        self._memory_fd = memory_fd
        self._files = files
        self._memory = memoryview(b"")

    def at(self, text: str) -> tuple[PurePath, Files]:
        """Return a path or URL, and how it is reached."""
        if not is_url(text):
            return Path(text), self._files
        place = place_at(text)
        return place.folder, place.files

    def image(self, size_bytes: int) -> memoryview:
        """Return the first bytes of the shared memory, mapped again only where it has grown."""
        if len(self._memory) < size_bytes:
            # The former is not closed by hand: an error's traceback may still hold a piece of it.
            self._memory = memoryview(mmap.mmap(self._memory_fd, size_bytes, prot=mmap.PROT_READ))
        return self._memory[:size_bytes]

    def blocks(self, start: int, size_bytes: int, block_bytes: int) -> Iterator[memoryview]:
        """Yield a part of an image block by block, each as soon as it is there."""
        end = start + size_bytes
        image = self.image(end)
        for first in range(start, end, block_bytes):
            block = image[first : min(first + block_bytes, end)]
            self._ready.wait_for(first + len(block))
            yield block


def _answer(request: Mapping[str, JSON], bench: _Bench) -> dict[str, JSON]:
    kind = str(request["kind"])
    try:
        return {"value": _ACTIONS[kind](request, bench)}
    except (OSError, PlaceError, SaveFailedError, ValueError) as error:
        return {"error": str(error)}


def _write(request: Mapping[str, JSON], bench: _Bench) -> JSON:
    """Write the parts of the image to new files.

    Returns for each the CRC-32 of each block, or the name of the earlier file that is the same.
    """
    fields = Fields(request, "a write", frozenset(("kind", "parts", "block_bytes")))
    block_bytes = fields.integer("block_bytes", 1)
    return [_write_part(part, block_bytes, bench) for part in fields.array("parts")]


def _write_part(part: JSON, block_bytes: int, bench: _Bench) -> JSON:
    fields = Fields(part, "a part", frozenset(("path", "start", "size_bytes", "earlier")))
    text, size_bytes = fields.text("path"), fields.integer("size_bytes")
    start = fields.integer("start")
    try:
        path, files = bench.at(text)
        blocks = partial(bench.blocks, start, size_bytes, block_bytes)
        if (earlier := fields.array("earlier")) and (name := _reuse(path, earlier, blocks, bench)):
            return name
        if is_object(f"{path.parent.name}/{path.name}"):
            files.make_dirs(path.parent)
        _, crc32 = write_new_file(
            path,
            blocks(),
            size_bytes,
            files=files,
            block_bytes=block_bytes,
            is_aligned=True,
        )
    except OSError as error:
        raise SaveFailedError(f"{text}: {error}") from error
    return list(crc32)


def _reuse(
    path: PurePath,
    earlier: list[JSON],
    blocks: Callable[[], Iterator[memoryview]],
    bench: _Bench,
) -> str | None:
    """Return the name under which an earlier file is used again; None: it is another."""
    from ..format.manifest_json import parse_file
    from ..storage.unchanged_file import reuse_earlier

    text, record = earlier
    there, files = bench.at(str(text))
    return reuse_earlier(path, there, parse_file(record), blocks, files=files)


def _publish(request: Mapping[str, JSON], bench: _Bench) -> JSON:
    """Make a checkpoint of what the ranks wrote; return its size in bytes."""
    # The other ranks' writers have no use for all that these import.
    from ..saving.commit import Commit

    fields = Fields(request, "a commit", frozenset(("kind", "folder", "claim", "size_bytes")))
    content = bytes(bench.image(fields.integer("size_bytes")))
    commit = Commit.parse(json.loads(content))
    publishing = publishing_of(*bench.at(fields.text("folder")))
    publishing.claim = fields.text("claim")
    try:
        return commit.publish(publishing)
    except (OSError, ValueError) as error:
        raise SaveFailedError(f"rank 0: {error}") from error


def _remove(request: Mapping[str, JSON], bench: _Bench) -> JSON:
    """Remove a folder, or an object."""
    path, files = bench.at(Fields(request, "a removal", frozenset(("kind", "path"))).text("path"))
    try:
        if is_object(f"{path.parent.name}/{path.name}"):
            files.unlink(path)
        else:
            files.rmtree(path)
    except FileNotFoundError:
        return None  # the rank went back and sweeps as well
    except OSError as error:
        raise SaveFailedError(f"{path} could not be removed: {error}") from error
    return None


_ACTIONS: dict[str, Callable[[Mapping[str, JSON], _Bench], JSON]] = {
    "write": _write,
    "publish": _publish,
    "remove": _remove,
}


if __name__ == "__main__":
    serve()
