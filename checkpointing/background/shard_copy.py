"""Copy a shard into memory: at once what may change any time, the rest beside the training.

Adam's moments are two thirds of a state, and change in the optimizer's step only: they are copied
during the forward and backward before it.
"""

import ctypes
import mmap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch

from ..format.fragment import Fragment
from ..saving.shard_plan import ShardPlan
from ..saving.side_thread import SideThread
from ..storage.filesystems import ALIGN_BYTES

_PARTS = 64
"""At most this many messages report the progress of a copy."""
_WORTH_TELLING_BYTES = 1 << 20
"""Smaller fragments are copied together, in calls of about so much. Each call lets go of Python's
lock: with one call for each, whoever else wants the lock waits until all are copied."""
_EVENTS = 16
"""The progress of a GPU's copy is reported in so many parts; each costs an event and a wake-up."""


class _Piece(NamedTuple):
    """A fragment, and where it goes. The views are made where it is copied: they take time too."""

    data: torch.Tensor
    """Shape (n,), on any device."""
    size_bytes: int
    image: torch.Tensor
    """The whole memory, uint8 on the host."""
    at: int
    end: int
    """Up to where the file is whole after it, as far as copies on this kind of device go."""

    @property
    def source(self) -> torch.Tensor:
        """Its bytes."""
        return self.data.detach().view(torch.uint8)

    @property
    def target(self) -> torch.Tensor:
        """Where they go."""
        return self.image[self.at : self.at + self.size_bytes]


def starts_in_image(plans: Sequence[ShardPlan]) -> list[int]:
    """Return where in the memory each file begins: at a page, as direct writes need it. Pure."""
    starts, at = [], 0
    for plan in plans:
        starts.append(at)
        at += plan.size_bytes + -plan.size_bytes % ALIGN_BYTES
    return starts


def image_bytes(plans: Sequence[ShardPlan]) -> int:
    """Return how much memory the files take. Pure."""
    return starts_in_image(plans)[-1] + plans[-1].size_bytes


class ShardCopy:
    """Files as they will stand on the disk, part of which may still be under way.

    On return all fragments but the steady ones are copied; `go_on` copies those.

    Args:
        memory: At least as large as `image_bytes` says; nobody else's until all is copied.
        plans: What goes where, file after file.
    """

    def __init__(self, memory: mmap.mmap, *plans: ShardPlan) -> None:
        self._image = image = torch.frombuffer(memory, dtype=torch.uint8)
        self._size_bytes = image_bytes(plans)
        found: list[tuple[Fragment, int, int]] = []
        for start, plan in zip(starts_in_image(plans), plans, strict=True):
            memory[start : start + len(plan.header)] = plan.header
            offsets = (start + offset for offset in plan.offsets)
            found += zip(plan.fragments, offsets, plan.sizes_bytes, strict=True)
        self._offsets = {id(fragment): offset for fragment, offset, _ in found}
        self._pieces: dict[str, list[_Piece]] = {}
        self._starts: dict[str, int] = {}
        """Of the first piece, by kind of device."""
        self._late: list[_InThread] = []
        at_once: dict[str, list[_Piece]] = {}
        # From the back: where a piece ends is where the next one of its kind starts.
        for fragment, offset, size_bytes in reversed(found):
            data = fragment.data
            kind = "cpu" if data.is_cpu else data.device.type
            end = self._starts.get(kind, self._size_bytes)
            piece = _Piece(data, size_bytes, image, offset, end)
            if fragment.is_steady:
                self._pieces.setdefault(kind, []).append(piece)
                self._starts[kind] = offset
            else:
                at_once.setdefault(kind, []).append(piece)
        on_host = at_once.pop("cpu", [])
        for piece in (piece for pieces in at_once.values() for piece in pieces):
            piece.target.copy_(piece.source, non_blocking=True)
        for group in _groups(on_host):
            _copy_together(group)
        if "cuda" in at_once:
            torch.cuda.current_stream().synchronize()

    def copied(self, fragment: Fragment) -> torch.Tensor:
        """Return the bytes of a fragment of the plans, as they will stand in its file."""
        offset = self._offsets[id(fragment)]
        return self._image[offset : offset + fragment.size_bytes]

    def go_on(self, tell: Callable[[int], None]) -> None:
        """Begin to copy the steady fragments; called once.

        Args:
            tell: Told, in any thread, how many bytes of the file are there, from the first on.
        """
        reach = _Reach(self._starts, self._size_bytes, tell)
        pieces, self._pieces = self._pieces, {}
        for kind, last_first in pieces.items():
            self._late.append(_LATE[kind](last_first, partial(reach.come_to, kind)))

    def let_change(self) -> None:
        """Return once the steady fragments may change too."""
        for late in self._late:
            late.let_change()

    def wait(self) -> None:
        """Return once all is copied."""
        for late in self._late:
            late.wait()

    def device_wait_s(self) -> float:
        """Return how long devices have waited in `let_change`, which the host does not see."""
        return sum(late.device_wait_s() for late in self._late)


class _Reach:
    """How far a file is whole, from how far the copies on each kind of device are."""

    def __init__(
        self, starts: Mapping[str, int], size_bytes: int, tell: Callable[[int], None]
    ) -> None:
        self._at = dict(starts)
        self._size_bytes = size_bytes
        self._tell = tell
        self._told = 0
        self._lock = threading.Lock()
        self._look()

    def come_to(self, kind: str, end: int) -> None:
        """Note that on one kind of device all is copied up to there."""
        with self._lock:
            self._at[kind] = end
            self._look()

    def _look(self) -> None:
        ready = min(self._at.values(), default=self._size_bytes)
        worth_it = max(_WORTH_TELLING_BYTES, self._size_bytes // _PARTS)
        if ready == self._size_bytes or ready - self._told >= worth_it:
            self._told = ready
            self._tell(ready)


def _groups(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Take pieces from the end of a list, as many at once as are copied together."""
    while pieces:
        group = [pieces.pop()]
        size_bytes = group[0].size_bytes
        while pieces and (size_bytes := size_bytes + pieces[-1].size_bytes) <= _WORTH_TELLING_BYTES:
            group.append(pieces.pop())
        yield group


def _copy_together(pieces: Sequence[_Piece], *, is_aside: bool = False) -> None:
    """Copy within the host's memory, without Python's lock.

    Args:
        pieces: Where they come from and go to.
        is_aside: Whether this is not the thread that trains, whose processors torch would take.
    """
    has_one_thread = torch.get_num_threads() == 1
    if len(pieces) > 1 and is_aside == has_one_thread:
        torch._foreach_copy_([one.target for one in pieces], [one.source for one in pieces])
        return
    for piece in pieces:
        if has_one_thread or is_aside:
            # Where the two are not aligned alike, memmove takes less time than copy_.
            address = piece.image.data_ptr() + piece.at
            ctypes.memmove(address, piece.data.data_ptr(), piece.size_bytes)
        else:
            piece.target.copy_(piece.source)


class _InThread:
    """Copies in a thread of their own, or here and now where there is none to be had."""

    def __init__(self, pieces: list[_Piece], come_to: Callable[[int], None]) -> None:
        self._pieces = pieces  # kept: their memory must not be given to others meanwhile
        self._come_to = come_to
        self._thread = SideThread(self._run)

    def let_change(self) -> None:
        """Return once the sources may change in what this process does next on their device."""
        self.wait()

    def wait(self) -> None:
        """Return once all is copied."""
        self._thread.join()

    def device_wait_s(self) -> float:
        """Return how long the sources' device has waited in place of the host."""
        return 0.0

    def _run(self) -> None:
        """Copy from the host's memory, for which Python's lock is not held."""
        for group in _groups(self._pieces):
            _copy_together(group, is_aside=True)
            self._come_to(group[-1].end)


class _OnStream(_InThread):
    """Copies from a GPU, beside what it computes; the thread waits for them."""

    def __init__(self, pieces: list[_Piece], come_to: Callable[[int], None]) -> None:
        self._device = pieces[0].data.device
        self._waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._copied: list[tuple[torch.cuda.Event, int]] = []
        """Events, first to last, and up to where the file is whole after each."""
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        worth_it = sum(piece.size_bytes for piece in pieces) // _EVENTS
        under_way = 0
        with torch.cuda.stream(stream):
            for piece in reversed(pieces):
                piece.target.copy_(piece.source, non_blocking=True)
                under_way += piece.size_bytes
                if under_way >= worth_it or piece is pieces[0]:
                    # Blocking: a waiting thread sleeps.
                    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                    event.record(stream)
                    self._copied.append((event, piece.end))
                    under_way = 0
        super().__init__(pieces, come_to)

    def let_change(self) -> None:
        # The GPU waits, not the host: what is started from now on comes after the copy.
        stream = torch.cuda.current_stream(self._device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record(stream)
        stream.wait_event(self._copied[-1][0])
        end.record(stream)
        self._waits.append((begin, end))

    def device_wait_s(self) -> float:
        for _, end in self._waits:
            end.synchronize()
        waited_ms: float = sum(begin.elapsed_time(end) for begin, end in self._waits)
        return waited_ms / 1000.0

    def _run(self) -> None:
        # A new thread stands on the first GPU, where a wait would take memory for each rank.
        torch.cuda.set_device(self._device)
        for event, end in self._copied:
            event.synchronize()
            self._come_to(end)
        self._pieces.clear()


_LATE: dict[str, type[_InThread]] = {"cpu": _InThread, "cuda": _OnStream}
