"""How the ranks of one host find each other and connect."""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from checkpointing import JSON
from checkpointing.readable import readable

from .socket_channel import SocketChannel

MOST_RANKS = 16
"""Among more, what each has to send for a sum takes longer than gloo does."""
_MEETING_S = 60.0
"""How long all of them together may take, with whoever else connects."""
_HELLO_BYTES = 64
_CREDENTIALS = struct.Struct("3i")
"""Of a peer, as the kernel knows it: process, user, group."""
_FAMILY, _KIND = socket.AF_UNIX, socket.SOCK_SEQPACKET
AllGather = Callable[[JSON], Sequence[JSON]]


def meet_neighbours(
    rank: int, world_size: int, all_gather: AllGather, *, limit_s: float
) -> SocketChannel | None:
    """Connect all ranks with each other, where that can be done. Called on every rank.

    Args:
        rank: this one.
        world_size: how many there are.
        all_gather: returns every rank's value, in the order of the ranks, on every rank.
        limit_s: how long a sum waits for another rank.

    Returns:
        None, then on every rank: they are on several hosts or more than `MOST_RANKS`, or two of
        them could not be connected.
    """
    if world_size == 1:
        return SocketChannel(rank, {}, limit_s=limit_s)
    if world_size > MOST_RANKS:
        return None
    door = _Door.open()
    try:
        cards = [_Card.decode(value) for value in all_gather(door.card.encode() if door else None)]
        known = [card for card in cards if card is not None]
        if len(known) < world_size or len({card.host for card in known}) > 1:
            return None
        assert door is not None
        links = door.meet(rank, known, time.monotonic() + _MEETING_S)
        if all(all_gather(links is not None)):
            assert links is not None
            return SocketChannel(rank, links, limit_s=limit_s)
    finally:
        if door is not None:
            door.close()
    for link in (links or {}).values():
        link.close()
    return None


@dataclass(frozen=True, kw_only=True)
class _Card:
    """Where a rank can be reached, and by whom."""

    host: str
    name: str
    """Of its socket, in the abstract namespace: no file that would be left behind."""
    token: str
    """To be shown by who connects: other users can see the name."""

    def encode(self) -> JSON:
        return [self.host, self.name, self.token]

    @classmethod
    def decode(cls, value: JSON) -> _Card | None:
        if value is None:
            return None
        assert isinstance(value, list)
        host, name, token = (str(part) for part in value)
        return cls(host=host, name=name, token=token)

    def hello(self, rank: int) -> bytes:
        return f"{self.token} {rank}".encode()


@dataclass(frozen=True, kw_only=True)
class _Door:
    """A rank's socket, to which those with higher numbers connect."""

    listener: socket.socket
    card: _Card

    @classmethod
    def open(cls) -> _Door | None:
        """Return None where the system does not let it."""
        try:
            host = _host()
            listener = socket.socket(_FAMILY, _KIND)
        except OSError:
            return None
        try:
            listener.bind("")  # the kernel chooses a free name
            listener.listen(MOST_RANKS)
        except OSError:
            listener.close()
            return None
        name = listener.getsockname().decode()
        return cls(listener=listener, card=_Card(host=host, name=name, token=secrets.token_hex(16)))

    def meet(
        self, rank: int, cards: Sequence[_Card], until_s: float
    ) -> dict[int, socket.socket] | None:
        """Return a connection to every other rank; None where one could not be made."""
        links: dict[int, socket.socket] = {}
        try:
            for other in range(rank):
                links[other] = link = socket.socket(_FAMILY, _KIND)
                link.settimeout(until_s - time.monotonic())
                link.connect(cards[other].name)
                link.send(cards[other].hello(rank))
            self._let_in(range(rank + 1, len(cards)), links, until_s)
        except (OSError, ValueError):  # ValueError: the time is over
            for link in links.values():
                link.close()
            return None
        return links

    def _let_in(self, expected: range, links: dict[int, socket.socket], until_s: float) -> None:
        """Take the connections of the ranks that are expected, in whichever order they come.

        Who connects and says nothing is not waited for: all have until the same moment.

        Raises:
            TimeoutError: not all have come by then.
        """
        silent: set[socket.socket] = set()
        try:
            while not links.keys() >= set(expected):
                left_s = until_s - time.monotonic()
                ready = _readable([self.listener, *silent], max(0.0, left_s))
                if not ready:
                    raise TimeoutError
                for link in ready:
                    if link is self.listener:
                        silent |= self._accepted()
                        continue
                    silent.remove(link)
                    who = self._says(link, expected)
                    if who is None or who in links:
                        link.close()
                    else:
                        links[who] = link
        finally:
            for link in silent:
                link.close()

    def _accepted(self) -> set[socket.socket]:
        """Return the connection that has come; none where it is another user's."""
        link, _ = self.listener.accept()
        credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, _ = _CREDENTIALS.unpack(credentials)
        if user == os.geteuid():
            return {link}
        link.close()
        return set()

    def _says(self, link: socket.socket, expected: range) -> int | None:
        """Return which rank has connected; None: a stranger. It has said something, or left."""
        try:
            hello = link.recv(_HELLO_BYTES)
        except OSError:
            return None
        for rank in expected:
            if hmac.compare_digest(hello, self.card.hello(rank)):
                return rank
        return None

    def close(self) -> None:
        """Let no one else in."""
        self.listener.close()


def _readable(sockets: Sequence[socket.socket], timeout_s: float) -> list[socket.socket]:
    """Wait until there is something to read from some of them; return these."""
    by_fd = {one.fileno(): one for one in sockets}
    return [by_fd[fd] for fd in readable(by_fd, timeout_s)]


def _host() -> str:
    """Return what only processes have in common that can reach each other's abstract sockets."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{os.stat('/proc/self/ns/net').st_ino}"
