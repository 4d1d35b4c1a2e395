"""Small sums and messages between ranks that are all on one host, by sockets.

gloo makes a sum in threads that have to be woken several times on each rank. Where every core
computes, that takes a millisecond from a training step. Here each rank sends its numbers to every
other, and reads theirs when it needs the sum: then they are there, and nobody was woken for them.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from operator import add
from typing import TypeVar

from ..errors import DesyncError, LostRankError
from .host_channel import SAME_ORDER, PendingSum

_SUM, _MESSAGE, _DESCRIPTOR = 1, 2, 3
_HEAD = struct.Struct("<QQQ")
"""What follows, the how manyth exchange between all ranks it belongs to, and its bytes."""
_PIECE_BYTES = 65536
"""The kernel keeps some of these for a rank that does not read yet."""
_RIGHTS = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
_FILE = struct.Struct("i")
_T = TypeVar("_T")


def close_all(descriptors: Iterable[int | None]) -> None:
    """Close those that there are."""
    for descriptor in descriptors:
        if descriptor is not None:
            os.close(descriptor)


@cache
def _sum_form(num_values: int) -> struct.Struct:
    """Return how a sum's head and its numbers are sent, in one piece."""
    return struct.Struct(f"{_HEAD.format}{num_values}d")


class _Sum:
    """One sum under way."""

    def __init__(self, owner: SocketChannel, number: int, own: Sequence[float]) -> None:
        self.number = number
        self.own = own
        self.total: list[float] | None = None
        self._owner = owner

    def wait(self) -> list[float]:
        """Return the sums, added up in the order of the ranks: the same bits on every rank."""
        if self.total is None:
            self._owner.settle(self)
        assert self.total is not None
        return self.total


class SocketChannel:
    """Connections to all other ranks, on this host. Every method is called on every rank.

    Each of them raises LostRankError where another rank is gone or does not come within the time,
    and DesyncError where it does something else.

    Args:
        rank: this one.
        links: to every other rank, sockets that keep messages apart.
        limit_s: how long another rank is waited for.
    """

    def __init__(self, rank: int, links: Mapping[int, socket.socket], *, limit_s: float) -> None:
        self._rank = rank
        self._links = dict(links)
        self._limit_s = limit_s
        self._order = sorted((rank, *links))
        self._exchanges = 0
        self._pending: deque[_Sum] = deque()
        for link in self._links.values():
            # With a timeout each call would ask first whether it need wait: mostly it need not.
            link.setblocking(False)

    @property
    def rank(self) -> int:
        """This one."""
        return self._rank

    def start(self, values: Sequence[float]) -> PendingSum:
        """Start to sum each of these float64 numbers over the ranks; as many on every rank."""
        one = _Sum(self, self._next_number(), values)
        form = _sum_form(len(values))
        message = form.pack(_SUM, one.number, form.size - _HEAD.size, *values)
        for rank in self._links:
            self._send(rank, message)
        self._pending.append(one)
        return one

    def settle(self, last: _Sum) -> None:
        """Complete the sums that are under way, up to this one."""
        while last.total is None:
            one = self._pending[0]
            parts = [
                one.own if rank == self._rank else self._receive_numbers(rank, one)
                for rank in self._order
            ]
            first, *others = parts
            total = list(first)
            for part in others:
                total = list(map(add, total, part))
            one.total = total
            self._pending.popleft()

    def gather(self, message: bytes) -> list[bytes] | None:
        """Return every rank's message, in rank order, on rank 0."""
        number = self._begin_messages()
        if self._rank != 0:
            self._send_message(0, number, message)
            return None
        others = self._order[1:]
        return [message, *(self._receive_message(rank, number) for rank in others)]

    def broadcast(self, message: bytes) -> bytes:
        """Return rank 0's message."""
        number = self._begin_messages()
        if self._rank != 0:
            return self._receive_message(0, number)
        for rank in self._links:
            self._send_message(rank, number, message)
        return message

    def swap_descriptors(self, own: int | None, size_bytes: int) -> dict[int, int | None]:
        """Give every other rank a descriptor of a file, and return theirs, to be closed.

        Args:
            own: None: this rank has none to give.
            size_bytes: of the file, the same on every rank.
        """
        number = self._begin_messages()
        head = _HEAD.pack(_DESCRIPTOR, number, size_bytes)
        rights = [] if own is None else [(*_RIGHTS, _FILE.pack(own))]
        for rank in self._links:
            self._call(rank, select.POLLOUT, lambda of: of.sendmsg([head], rights))
        received: dict[int, int | None] = {}
        try:
            for rank in self._links:
                received[rank] = self._receive_descriptor(rank, head, number)
        except BaseException:
            close_all(received.values())
            raise
        return received

    def close(self) -> None:
        """Close the connections; what the others still wait for fails."""
        for link in self._links.values():
            link.close()

    def _next_number(self) -> int:
        self._exchanges += 1
        return self._exchanges

    def _begin_messages(self) -> int:
        if self._pending:
            self.settle(self._pending[-1])
        return self._next_number()

    def _receive_numbers(self, rank: int, one: _Sum) -> Sequence[float]:
        form = _sum_form(len(one.own))
        content = self._receive(rank, form.size)
        if len(content) == form.size:
            kind, number, size_bytes, *numbers = form.unpack(content)
            if kind == _SUM and number == one.number and size_bytes == form.size - _HEAD.size:
                return numbers
        raise self._unlike(rank, one.number)

    def _send_message(self, rank: int, number: int, message: bytes) -> None:
        self._send(rank, _HEAD.pack(_MESSAGE, number, len(message)))
        view = memoryview(message)
        for start in range(0, len(view), _PIECE_BYTES):
            self._send(rank, view[start : start + _PIECE_BYTES])

    def _receive_message(self, rank: int, number: int) -> bytes:
        size_bytes = self._require(rank, self._receive(rank, _HEAD.size), _MESSAGE, number)
        message = bytearray()
        while len(message) < size_bytes:
            message += self._receive(rank, _PIECE_BYTES)
        return bytes(message)

    def _require(self, rank: int, content: bytes, kind: int, number: int) -> int:
        """Return how many bytes belong to what a rank sends, if that is what is awaited."""
        if len(content) < _HEAD.size:
            raise self._unlike(rank, number)
        *what, size_bytes = _HEAD.unpack_from(content)
        if what != [kind, number]:
            raise self._unlike(rank, number)
        return int(size_bytes)

    def _unlike(self, rank: int, number: int) -> DesyncError:
        return DesyncError(
            f"rank {rank} sends something other than rank {self._rank} expects, in their exchange "
            f"{number}. {SAME_ORDER}"
        )

    def _receive_descriptor(self, rank: int, head: bytes, number: int) -> int | None:
        most = socket.CMSG_SPACE(_FILE.size)
        content, ancillary, *_ = self._call(
            rank, select.POLLIN, lambda of: of.recvmsg(len(head), most, socket.MSG_CMSG_CLOEXEC)
        )
        files = [_FILE.unpack(rights)[0] for *kind, rights in ancillary if (*kind,) == _RIGHTS]
        if content == head:
            return files[0] if files else None
        close_all(files)
        raise self._unlike(rank, number) if content else self._lost(rank, None)

    def _send(self, rank: int, content: bytes | memoryview) -> None:
        self._call(rank, select.POLLOUT, lambda link: link.send(content))

    def _receive(self, rank: int, size_bytes: int) -> bytes:
        content = self._call(rank, select.POLLIN, lambda link: link.recv(size_bytes))
        if not content:
            raise self._lost(rank, None)
        return content

    def _call(self, rank: int, event: int, call: Callable[[socket.socket], _T]) -> _T:
        """Return what a call of a rank's connection does, as soon as it need not wait."""
        link = self._links[rank]
        try:
            try:
                return call(link)
            except BlockingIOError:
                return self._when_ready(link, event, call)
        except OSError as error:
            raise self._lost(rank, error) from error

    def _when_ready(
        self, link: socket.socket, event: int, call: Callable[[socket.socket], _T]
    ) -> _T:
        poll = select.poll()
        poll.register(link, event)
        until_s = time.monotonic() + self._limit_s
        while poll.poll(1000 * max(0.0, until_s - time.monotonic())):
            with suppress(BlockingIOError):
                return call(link)
        raise TimeoutError

    def _lost(self, rank: int, error: OSError | None) -> LostRankError:
        if isinstance(error, TimeoutError):
            return LostRankError(
                f"rank {self._rank} has waited {self._limit_s:g} s for rank {rank} to reach "
                "the point where all ranks exchange data."
            )
        cause = "" if error is None else f" ({error.strerror})"
        return LostRankError(f"rank {rank} has closed its connection to rank {self._rank}{cause}.")
