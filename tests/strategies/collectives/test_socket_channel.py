import math
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from strategies.collectives.socket_channel import SocketChannel
from strategies.errors import DesyncError, LostRankError

from .connected import connected


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_sums_are_the_same_bits_on_every_rank(world_size: int) -> None:
    ranks = connected(world_size)
    values = [[0.1 * (rank + 1), 1e16 if rank else -1e16, math.inf] for rank in range(world_size)]
    started = [one.start(own) for one, own in zip(ranks, values, strict=True)]
    totals = [one.wait() for one in started]
    assert totals == [totals[0]] * world_size
    assert totals[0][0] == sum(own[0] for own in values)
    assert totals[0][2] == math.inf
    assert started[0].wait() == totals[0]  # again


def test_several_sums_are_under_way_and_the_last_is_waited_for_first() -> None:
    ranks = connected(3)
    first = [one.start([1.0 + rank]) for rank, one in enumerate(ranks)]
    second = [one.start([10.0, 20.0]) for one in ranks]
    assert [one.wait() for one in second] == [[30.0, 60.0]] * 3
    assert [one.wait() for one in first] == [[6.0]] * 3


def test_a_rank_that_is_gone_is_named() -> None:
    ranks = connected(3)
    under_way = ranks[0].start([1.0])
    ranks[1].start([1.0])
    ranks[2].close()
    with pytest.raises(LostRankError, match="rank 2 has closed its connection to rank 0"):
        under_way.wait()
    with pytest.raises(LostRankError, match="rank 2 has closed its connection to rank 1"):
        ranks[1].start([1.0])


def test_a_rank_that_does_not_come_is_named() -> None:
    ranks = connected(3, limit_s=0.05)
    ranks[1].start([1.0])
    with pytest.raises(LostRankError, match=r"rank 0 has waited 0\.05 s for rank 2"):
        ranks[0].start([1.0]).wait()


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3_000_000])
def test_messages_of_any_size_arrive(size: int) -> None:
    ranks = connected(3)
    messages = [bytes([65 + rank]) * (size + rank) for rank in range(3)]
    under_way = [one.start([1.0]) for one in ranks]
    with ThreadPoolExecutor(3) as threads:
        gathered = list(threads.map(lambda one, own: one.gather(own), ranks, messages))
        told = list(threads.map(lambda one, own: one.broadcast(own), ranks, messages))
    assert gathered == [messages, None, None]
    assert told == [messages[0]] * 3
    assert [one.wait() for one in under_way] == [[3.0]] * 3


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0]])
def test_ranks_that_sum_unlike_things_are_told(values: list[float]) -> None:
    here, there = connected(2)
    there.start(values)
    with pytest.raises(DesyncError, match="rank 1 sends something other than rank 0"):
        here.start([1.0, 2.0]).wait()


@pytest.mark.parametrize("message", [b"", b"x" * 100])
def test_a_message_is_no_sum_and_a_sum_no_message(message: bytes) -> None:
    here, there = connected(2)
    there.gather(message)
    with pytest.raises(DesyncError, match="in their exchange 1"):
        here.start([1.0]).wait()
    here, there = connected(2)
    there.start([1.0])
    with pytest.raises(DesyncError, match="in their exchange 1"):
        here.gather(message)


def test_pieces_of_a_message_are_no_head() -> None:
    here, there = connected(2)
    there.gather(b"short")
    here._receive(1, 64)
    with pytest.raises(DesyncError, match="in their exchange 1"):
        here.gather(b"")


def test_a_rank_that_is_an_exchange_behind_is_told() -> None:
    here, there = connected(2)
    there.start([1.0])
    there._next_number()
    there.start([1.0])
    here.start([1.0])
    with pytest.raises(DesyncError, match="in their exchange 2"):
        here.start([1.0]).wait()


def fill(channel: SocketChannel, rank: int) -> None:
    """Send until the kernel keeps no more for a rank that does not read."""
    with suppress(BlockingIOError):
        while True:
            channel._links[rank].send(bytes(65536))


def test_a_rank_that_does_not_read_is_waited_for_and_named() -> None:
    here, _ = connected(2, limit_s=0.05)
    fill(here, 1)
    with pytest.raises(LostRankError, match=r"rank 0 has waited 0\.05 s for rank 1"):
        here.start([1.0])


def test_a_sum_is_sent_once_the_other_reads_again() -> None:
    here, there = connected(2)
    fill(here, 1)
    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(here.start, [1.0])
        while len(there._receive(0, 65536)) == 65536:
            pass  # until it is the sum that comes
        assert sending.result() is here._pending[0]


def test_a_sum_adds_in_the_order_of_the_ranks() -> None:
    """Whatever the Python: its sum() of floats rounds otherwise from 3.12 on."""
    ranks = connected(3)
    started = [one.start([value]) for one, value in zip(ranks, (1.0, 1e100, -1e100), strict=True)]
    assert [one.wait() for one in started] == [[0.0]] * 3
