"""A rank's writer process, and the memory that the two share."""

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path, PurePath

from ..errors import SaveFailedError
from ..format.manifest_json import encode_file
from ..format.strict_json import JSON
from ..readable import readable
from ..saving.commit import Commit, CommitText
from ..saving.own_shard import EarlierShard
from ..storage.commit_protocol import CommitProtocol
from .copy_progress import ReadyTeller
from .pinned_memory import pin
from .staging import Staging
from .writer_process import NOT_FOR_US

_ROOT = Path(__file__).resolve().parents[2]


def writer_command() -> tuple[str, ...]:
    """Return the words that start the writer.

    Without the site's packages and without the user's environment it starts in a few hundredths
    of a second. The paths go last, so that nothing beside this package hides the standard
    library; this process's own are for fsspec, which only a URL needs.
    """
    paths = [str(_ROOT), *(path for path in sys.path if path)]
    return (
        *(sys.executable, "-S", "-I", "-c"),
        f"import sys; sys.path.extend({paths!r}); "
        "from checkpointing.background.writer_process import serve; serve()",
    )


_PATIENCE_S = 300.0
_SLOWEST_BYTES_PER_S = 20e6
_FAREWELL_S = 10.0
"""How long a process that removes old checkpoints is let live when its rank leaves."""
_FUNERAL_S = 5.0
"""How long a killed process is waited for: one that hangs in the kernel does not die."""


def time_limit_s(size_bytes: int) -> float:
    """Return how long the writing of a file may take before its process counts as hung. Pure."""
    return _PATIENCE_S + size_bytes / _SLOWEST_BYTES_PER_S


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """A file to write from the image."""

    path: PurePath
    """Must not exist."""
    start: int
    """First byte in the image, which begins a page."""
    size_bytes: int
    earlier: EarlierShard | None = None
    """A file as long; if it holds the same, it is named again and nothing is written."""

    def encode(self) -> JSON:
        """Return it as JSON, for the process."""
        earlier = self.earlier
        return {
            "path": str(self.path),
            "start": self.start,
            "size_bytes": self.size_bytes,
            "earlier": [] if earlier is None else [str(earlier.path), encode_file(earlier.record)],
        }


class BackgroundWriter:
    """Does one thing after another; started by the first, and again after it died.

    A write and a commit are waited for, one at a time. Removals are not: they take as long as they
    take, before what is asked for next.

    Args:
        command: The writer's program, to which two descriptors are added, see
            `writer_process.serve` (default: `writer_command`).
        limit_s: From the size of what is written in bytes, how many seconds that may take. A
            process that takes longer is killed.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        limit_s: Callable[[int], float] = time_limit_s,
    ) -> None:
        self._command = writer_command() if command is None else tuple(command)
        self._limit_s = limit_s
        self._given_s = self._until_s = 0.0
        self._staging = Staging(pin)
        self._ready = ReadyTeller()
        self._commit_text = CommitText()
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""
        self._ids = count()
        self._awaited: int | None = None
        self._removing: set[int] = set()
        self._not_removed: list[str] = []

    def image(self, size_bytes: int) -> mmap.mmap:
        """Return shared memory of at least this size, its pages already there from the last time.

        Only while nothing is being written or published.

        Raises:
            OSError: There is not so much memory (ENOMEM).
        """
        return self._staging.image(size_bytes)

    def prepare(self, size_bytes: int) -> None:
        """Take the memory of a first image of this size, while the caller goes about its work."""
        self._staging.prepare(size_bytes)

    @property
    def image_note(self) -> str | None:
        """Why copies to the image are slow; None: they are not."""
        return self._staging.note

    def submit(self, parts: Sequence[ImagePart], block_bytes: int) -> Callable[[int], None]:
        """Let parts of the image be written to new files, as soon as they are there.

        Args:
            parts: In the order of their places in the image.
            block_bytes: Under one checksum.

        Returns:
            Takes how many of them are there, from the first on, in any thread; all of them
            in the end.

        Raises:
            OSError: The process cannot be started.
            SaveFailedError: It died at once.
        """
        number = self._await(
            {
                "kind": "write",
                "parts": [part.encode() for part in parts],
                "block_bytes": block_bytes,
            },
            sum(part.size_bytes for part in parts),
        )
        return partial(self._ready.tell, number)

    def publish(self, publishing: CommitProtocol, commit: Commit) -> None:
        """Let what all ranks have written become a checkpoint of a store.

        Raises:
            OSError: The process cannot be started, or there is not so much memory.
            SaveFailedError: It died at once.
        """
        content = self._commit_text.of(commit)
        # Not through the pipe: a process that hangs would keep this one waiting.
        self.image(len(content))[: len(content)] = content
        request: dict[str, JSON] = {
            "kind": "publish",
            "folder": str(publishing.folder),
            "claim": publishing.claim,
        }
        self._await({**request, "size_bytes": len(content)}, len(content))

    def remove(self, path: PurePath) -> None:
        """Let a folder or an object be removed, some time.

        Raises:
            OSError: The process cannot be started.
            SaveFailedError: It died at once.
        """
        self._removing.add(self._send({"kind": "remove", "path": str(path)}))

    def not_removed(self) -> list[str]:
        """Return why folders could not be removed, each once, as far as that is known by now."""
        names, self._not_removed = self._not_removed, []
        return names

    def receive(self, *, wait: bool) -> Mapping[str, JSON] | None:
        """Return the answer to what is awaited, once.

        Args:
            wait: Whether to wait for it; without, None means that it is not done yet.

        Returns:
            {"value": ...}, of a write for each part the CRC-32 of each block, or the name of the
            earlier file that is the same; of a commit the bytes that it has written. Or
            {"error": text}; or {"died": text} where the process ended, or was killed because it
            exceeded its time limit.
        """
        process = self._process
        if process is None:
            return {"died": "there is no writer process"}
        assert process.stdout is not None
        while (answer := self._next_answer()) is None:
            left_s = max(0.0, self._until_s - time.monotonic())
            if not readable([process.stdout.fileno()], left_s if wait else 0):
                if not wait and left_s:
                    return None
                return {"died": self._give_up()}
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                return {"died": self._epitaph()}
            self._received += part
        return answer

    def close(self) -> None:
        """End the process, whatever it writes; a removal may take a few more seconds.

        Only what was committed stays a checkpoint.
        """
        if self._process is not None:
            if self._removing:
                self._let_it_end(self._process)
            self._process.kill()
            self._epitaph()
        self._ready.close()
        self._staging.close()

    def _await(self, request: dict[str, JSON], size_bytes: int) -> int:
        self._given_s = self._limit_s(size_bytes)
        self._awaited = number = self._send(request)
        self._until_s = time.monotonic() + self._given_s
        return number

    def _send(self, request: dict[str, JSON]) -> int:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        number = next(self._ids)
        try:
            self._process.stdin.write(json.dumps({"id": number, **request}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise SaveFailedError(self._epitaph()) from error
        return number

    def _next_answer(self) -> Mapping[str, JSON] | None:
        """Take what has come up to the awaited answer; None if that is not among it."""
        while b"\n" in self._received:
            line, _, self._received = self._received.partition(b"\n")
            answer: dict[str, JSON] = json.loads(line)
            number = answer.pop("id")
            if number == self._awaited:
                self._awaited = None
                return answer
            assert isinstance(number, int)
            self._removing.discard(number)
            # What was to be removed first took its own time.
            self._until_s = time.monotonic() + self._given_s
            if "error" in answer:
                self._not_removed.append(str(answer["error"]))
        return None

    def _let_it_end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_FAREWELL_S)

    def _start(self) -> None:
        self._received = b""
        self._removing.clear()
        fds = self._staging.fd, self._ready.read_fd
        # Blocked signals survive the exec: those that are sent to everyone are never for it.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_US)
        try:
            self._process = subprocess.Popen(
                [*self._command, *map(str, fds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=fds,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def _give_up(self) -> str:
        """Kill a process that hangs."""
        assert self._process is not None
        self._process.kill()
        self._epitaph()
        self._staging.leave_behind()
        return (
            f"the process that writes checkpoints was not done after {self._given_s:g} s and "
            "was killed: the disk hangs, or is too slow"
        )

    def _epitaph(self) -> str:
        """Reap a process that has ended or is about to; return how it ended."""
        assert self._process is not None
        process, self._process = self._process, None
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # it does not need the remaining messages
        try:
            status = process.wait(timeout=_FUNERAL_S)
        except subprocess.TimeoutExpired:
            return "the process that writes checkpoints hangs in the kernel and cannot be killed"
        cause = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"the process that writes checkpoints {cause}"
