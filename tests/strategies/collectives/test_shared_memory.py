"""Ranks of one host as threads; processes are in tests/integration."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch

from strategies.collectives.shared_memory import SharedMemory
from strategies.collectives.socket_channel import SocketChannel
from strategies.errors import DesyncError, LostRankError
from tests.proc_files import memory_files

from .connected import connected

T = TypeVar("T")
NOTHING = {"maps": 0, "descriptors": 0}


def on_all(channels: list[SocketChannel], do: Callable[[int, SharedMemory], T]) -> list[T]:
    memories = [SharedMemory(channel) for channel in channels]
    with ThreadPoolExecutor(len(memories)) as threads:
        return list(threads.map(do, range(len(memories)), memories))


def held() -> dict[str, int]:
    return memory_files(os.getpid(), "relaunch-sums")


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_what_is_told_before_a_meeting_is_read_until_the_next(world_size: int) -> None:
    def tell(rank: int, memory: SharedMemory) -> list[list[float]]:
        assert memory.reserve(40)
        found = []
        for turn in range(50):
            memory.mine(8, 3, torch.float64).fill_(100 * turn + rank)
            memory.mine(32, 2, torch.float32).fill_(-turn)
            memory.meet()
            # The next is written before this one is read.
            memory.mine(8, 3, torch.float64).fill_(-1.0)
            others = range(world_size)
            found.append([float(memory.theirs(o, 8, 3, torch.float64).sum()) for o in others])
            for other in others:
                assert memory.theirs(other, 32, 2, torch.float32).tolist() == [-turn, -turn]
        return found

    expected = [[3.0 * (100 * turn + rank) for rank in range(world_size)] for turn in range(50)]
    assert on_all(connected(world_size), tell) == [expected] * world_size


def test_it_grows_and_nothing_of_it_is_left() -> None:
    def tell(rank: int, memory: SharedMemory) -> None:
        for size in (8, 100_000, 8):
            assert memory.reserve(size)
            memory.mine(0, 1, torch.float64).fill_(rank)
            memory.meet()
            assert memory.theirs(1 - rank, 0, 1, torch.float64).tolist() == [1.0 - rank]
        assert held()["descriptors"] == 0
        assert held()["maps"]
        memory.meet()
        memory.close()

    on_all(connected(2), tell)
    assert held() == NOTHING


@pytest.mark.parametrize("lacking", ["memfd_create", "posix_fallocate"])
def test_ranks_agree_that_the_system_of_one_has_none(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(os, lacking)
    given: list[Any] = []

    def refuse(*args: Any) -> Any:
        given.append(args)
        if len(given) == 2:
            raise PermissionError
        return original(*args)

    monkeypatch.setattr(os, lacking, refuse)

    def tell(rank: int, memory: SharedMemory) -> list[bool]:
        return [memory.reserve(8), memory.reserve(8)]

    assert on_all(connected(3), tell) == [[False, True]] * 3
    assert held()["descriptors"] == 0


def test_what_cannot_grow_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(rank: int, memory: SharedMemory) -> None:
        assert memory.reserve(8)
        memory.meet()
        if rank == 0:
            monkeypatch.delattr(os, "memfd_create")
        memory.meet()
        assert not memory.reserve(1 << 20)
        memory.mine(0, 1, torch.float64).fill_(rank)
        memory.meet()
        assert memory.theirs(1 - rank, 0, 1, torch.float64).tolist() == [1.0 - rank]

    on_all(connected(2), tell)


def test_a_map_that_is_refused_is_agreed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise RuntimeError("unable to mmap")

    monkeypatch.setattr(torch, "from_file", refuse)
    assert on_all(connected(2), lambda rank, memory: memory.reserve(8)) == [False, False]
    assert held()["descriptors"] == 0


def test_a_rank_that_is_gone_is_named_and_nothing_is_left() -> None:
    here, there, gone = connected(3)

    def leave() -> None:
        for rank in (0, 1):
            gone._receive(rank, 24)
        gone.close()

    with ThreadPoolExecutor(2) as threads:
        threads.submit(leave)
        other = threads.submit(SharedMemory(there).reserve, 8)
        # The descriptor of rank 1 has come by then.
        with pytest.raises(LostRankError, match="rank 2 has closed its connection to rank 0"):
            SharedMemory(here).reserve(8)
        here.close()
        assert isinstance(other.exception(), LostRankError)
    assert held()["descriptors"] == 0


def test_a_rank_that_does_not_come_to_a_meeting_is_named() -> None:
    here, there = connected(2, limit_s=0.05)
    first, second = SharedMemory(here), SharedMemory(there)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(SharedMemory.reserve, [first, second], [8, 8])) == [True, True]
    with pytest.raises(LostRankError, match=r"rank 0 has waited 0\.05 s for rank 1"):
        first.meet()


@pytest.mark.parametrize("size_bytes", [8, 1 << 20])
def test_ranks_that_do_unlike_things_are_told(size_bytes: int) -> None:
    """A sum of the other, or room of another size."""
    here, there = connected(2)
    with ThreadPoolExecutor(1) as threads:
        if size_bytes == 8:
            there.start([1.0, 2.0])
        else:
            other = threads.submit(SharedMemory(there).reserve, 8)
        with pytest.raises(DesyncError, match="rank 1 sends something other than rank 0"):
            SharedMemory(here).reserve(size_bytes)
        if size_bytes != 8:
            assert isinstance(other.exception(), DesyncError)
    assert held()["descriptors"] == 0


def test_a_forked_process_does_not_have_it() -> None:
    def tell(rank: int, memory: SharedMemory) -> None:
        assert memory.reserve(8)
        memory.meet()
        if rank == 0:
            child = os.fork()
            if child == 0:
                os._exit(0 if held() == NOTHING else 1)
            assert os.waitpid(child, 0)[1] == 0
        memory.meet()

    on_all(connected(2), tell)
