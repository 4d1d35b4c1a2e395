import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from checkpointing.readable import readable
from strategies.collectives import socket_connect as module
from strategies.collectives.socket_channel import SocketChannel
from strategies.collectives.socket_connect import MOST_RANKS, meet_neighbours


class Meeting:
    """All ranks in threads of one process, with an all_gather between them."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._values: list[Any] = [None] * world_size
        self._barrier = threading.Barrier(world_size, timeout=30)

    def all_gather(self, rank: int, value: Any) -> Sequence[Any]:
        self._values[rank] = value
        self._barrier.wait()
        gathered = list(self._values)
        self._barrier.wait()
        return gathered

    def meet(self, rank: int) -> SocketChannel | None:
        return meet_neighbours(
            rank, self.world_size, lambda value: self.all_gather(rank, value), limit_s=30.0
        )

    def all_meet(self) -> list[SocketChannel | None]:
        with ThreadPoolExecutor(self.world_size) as threads:
            return list(threads.map(self.meet, range(self.world_size)))


@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_of_a_host_are_connected(world_size: int) -> None:
    ranks = Meeting(world_size).all_meet()
    started = [one.start([2.0**rank]) for rank, one in enumerate(ranks) if one is not None]
    assert [one.wait() for one in started] == [[2.0**world_size - 1]] * world_size


def test_a_rank_alone_needs_nobody() -> None:
    alone = meet_neighbours(0, 1, lambda value: pytest.fail("nobody is there"), limit_s=1.0)
    assert alone is not None
    assert alone.start([1.5]).wait() == [1.5]


def test_many_ranks_leave_it_to_gloo() -> None:
    asked = meet_neighbours(
        0, MOST_RANKS + 1, lambda value: pytest.fail("none of them"), limit_s=1.0
    )
    assert asked is None


def test_ranks_of_several_hosts_are_not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = iter(["here", "there", "here"])
    monkeypatch.setattr(module, "_host", lambda: next(hosts))
    assert Meeting(3).all_meet() == [None] * 3


def test_a_rank_without_such_sockets_is_agreed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = threading.Semaphore(1)

    def host() -> str:
        if refused.acquire(blocking=False):
            raise PermissionError
        return "here"

    monkeypatch.setattr(module, "_host", host)
    assert Meeting(3).all_meet() == [None] * 3


def test_two_that_cannot_be_connected_are_agreed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEETING_S", 1.0)
    meet = module._Door.meet

    def late(self: Any, rank: int, cards: Any, until_s: float) -> Any:
        return None if rank == 2 else meet(self, rank, cards, until_s)

    monkeypatch.setattr(module._Door, "meet", late)
    assert Meeting(3).all_meet() == [None] * 3


@pytest.mark.parametrize("says", [b"", b"0" * 32 + b" 1", b"x" * 4000])
def test_a_stranger_is_not_let_in(monkeypatch: pytest.MonkeyPatch, says: bytes) -> None:
    strangers: list[socket.socket] = []

    def do(stranger: socket.socket) -> None:
        if says:
            stranger.send(says)
        else:
            stranger.shutdown(socket.SHUT_WR)

    besiege(monkeypatch, strangers, do)
    assert_all_meet()
    for stranger in strangers:
        with suppress(ConnectionResetError):  # the last rank lets nobody in
            assert stranger.recv(64) == b""


def besiege(
    monkeypatch: pytest.MonkeyPatch,
    strangers: list[socket.socket],
    do: Callable[[socket.socket], None],
) -> None:
    """Let a stranger connect to each door before any rank knows of it."""
    opened = module._Door.open

    def besieged() -> Any:
        door = opened()
        assert door is not None
        stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stranger.connect(door.card.name)
        strangers.append(stranger)
        do(stranger)
        return door

    monkeypatch.setattr(module._Door, "open", besieged)


def assert_all_meet() -> None:
    ranks = Meeting(2).all_meet()
    started = [one.start([1.0]) for one in ranks if one is not None]
    assert [one.wait() for one in started] == [[2.0]] * 2


def test_who_connects_and_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its connection until the ranks have met, so they cannot have waited for it."""
    strangers: list[socket.socket] = []
    besiege(monkeypatch, strangers, lambda stranger: None)
    waited_s: list[float] = []

    def noted(fds: Iterable[int], timeout_s: float) -> list[int]:
        waited_s.append(timeout_s)
        return readable(fds, timeout_s)

    monkeypatch.setattr(module, "readable", noted)
    monkeypatch.setattr(module, "_MEETING_S", 25.0)
    assert_all_meet()
    # One deadline for all: what is left of it is never begun anew, nor shared out.
    assert waited_s
    assert max(waited_s) <= 25.0
    for stranger in strangers:
        with suppress(ConnectionResetError):
            assert stranger.recv(64) == b""
        stranger.close()


def test_only_silent_ones_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    door = module._Door.open()
    assert door is not None
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    for stranger in silent:
        stranger.connect(door.card.name)
    assert door.meet(0, [door.card, door.card], time.monotonic() + 0.2) is None
    for stranger in silent:
        with suppress(ConnectionResetError):
            assert stranger.recv(64) == b""
        stranger.close()
    door.close()


def test_another_user_is_shown_out_before_it_can_say_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = module._Door.open()
    assert door is not None
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stranger.connect(door.card.name)
    stranger.send(door.card.hello(1))  # it has even got to know the token
    monkeypatch.setattr(module.os, "geteuid", lambda: os.getuid() + 1)
    assert door.meet(0, [door.card, door.card], time.monotonic() + 0.2) is None
    with suppress(ConnectionResetError):
        assert stranger.recv(64) == b""
    stranger.close()
    door.close()
