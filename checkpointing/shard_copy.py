"""Copy a shard into memory: at once what may change any time, the rest beside the training.

Adam's moments are two thirds of a state, and change in the optimizer's step only: they are copied
during the forward and backward before it.
"""

import ctypes
import mmap
import threading
from collections.abc import Callable
from typing import Protocol

import torch

from .shard_writer import ShardPlan

Pair = tuple[torch.Tensor, torch.Tensor]
"""Where bytes are, and where they go in the host's memory: two tensors of uint8 [n]."""


class _Late(Protocol):
    """Copies that go on while the training does."""

    def is_done(self) -> bool:
        """Tell whether they are done. No waiting."""

    def let_change(self) -> None:
        """Return once the sources may change in what this process does next on their device."""

    def wait(self) -> None:
        """Return once they are done."""


class ShardCopy:
    """A shard as it will stand in its file, part of which may still be under way.

    On return all fragments but the steady ones are copied.

    Args:
        memory: At least `plan.size_bytes` large; nobody else's until all is copied.
        plan: What goes where.
    """

    def __init__(self, memory: mmap.mmap, plan: ShardPlan) -> None:
        image = torch.frombuffer(memory, dtype=torch.uint8)
        memory[: len(plan.header)] = plan.header
        at_once: list[Pair] = []
        late: dict[str, list[Pair]] = {}
        for fragment, offset in zip(plan.fragments, plan.offsets, strict=True):
            source = fragment.data.detach().view(torch.uint8)
            pair = source, image[offset : offset + len(source)]
            alike = late.setdefault(source.device.type, []) if fragment.is_steady else at_once
            alike.append(pair)
        for pair in at_once:
            _copy_now(*pair)
        self._late = [_LATE[kind](pairs) for kind, pairs in late.items()]
        if any(source.is_cuda for source, _ in at_once):
            torch.cuda.current_stream().synchronize()

    def is_done(self) -> bool:
        """Tell whether all is copied. No waiting."""
        return all(late.is_done() for late in self._late)

    def let_change(self) -> None:
        """Return once the steady fragments may change too."""
        for late in self._late:
            late.let_change()

    def wait(self) -> None:
        """Return once all is copied."""
        for late in self._late:
            late.wait()


def _copy_now(source: torch.Tensor, target: torch.Tensor) -> None:
    if source.device.type == "cpu" and torch.get_num_threads() == 1:
        # Where the two are not aligned alike, memmove takes less time than copy_.
        _move(source, target)
    else:
        target.copy_(source, non_blocking=True)


def _move(source: torch.Tensor, target: torch.Tensor) -> None:
    ctypes.memmove(target.data_ptr(), source.data_ptr(), len(source))


class _InThread:
    """Copies from the host's memory, for which Python's lock is not held."""

    def __init__(self, pairs: list[Pair]) -> None:
        self._pairs = pairs
        self._thread = threading.Thread(target=self._run, name="relaunch-copy", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the user or the control group may have no more threads
            self._run()

    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def let_change(self) -> None:
        self.wait()

    def wait(self) -> None:
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while self._pairs:
            _move(*self._pairs.pop())


class _OnStream:
    """Copies from a GPU, beside what it computes."""

    def __init__(self, pairs: list[Pair]) -> None:
        self._pairs = pairs  # kept: their memory must not be given to others meanwhile
        self._device = pairs[0][0].device
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for source, target in pairs:
                target.copy_(source, non_blocking=True)
        self._done = stream.record_event()

    def is_done(self) -> bool:
        return bool(self._done.query())

    def let_change(self) -> None:
        # The GPU waits, not the host: what is started from now on comes after the copy.
        torch.cuda.current_stream(self._device).wait_event(self._done)

    def wait(self) -> None:
        self._done.synchronize()


_LATE: dict[str, Callable[[list[Pair]], _Late]] = {"cpu": _InThread, "cuda": _OnStream}
