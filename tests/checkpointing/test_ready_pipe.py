"""How far an image is whole, told from one process to another."""

import os
import threading

import pytest

from checkpointing import ready_pipe
from checkpointing.ready_pipe import ReadyListener, ReadyTeller


@pytest.fixture
def ends():
    teller = ReadyTeller()
    listener = ReadyListener(teller.read_fd, os.getppid())
    yield teller, listener
    teller.close()
    teller.give_away()


def test_what_was_told_need_not_be_waited_for(ends):
    teller, listener = ends
    for ready_bytes in (0, 10, 20):
        teller.tell(7, ready_bytes)
    for wanted_bytes in (0, 1, 10, 20):
        listener.wait_for(7, wanted_bytes)


def test_what_is_not_there_is_waited_for(ends):
    teller, listener = ends
    came = threading.Event()

    def wait():
        listener.wait_for(7, 20)
        came.set()

    threading.Thread(target=wait, daemon=True).start()
    teller.tell(7, 19)
    assert not came.wait(0.2)
    teller.tell(7, 20)
    assert came.wait(10)


def test_what_an_earlier_save_tells_is_not_of_this_one(ends):
    teller, listener = ends
    listener.wait_for(1, 0)
    for ready_bytes in range(300):  # more than one read takes
        teller.tell(1, ready_bytes)
    teller.tell(2, 5)
    listener.wait_for(2, 5)
    teller.tell(1, 1000)
    teller.close()
    with pytest.raises(SystemExit, match="the rank is gone"):
        listener.wait_for(2, 6)


def test_a_rank_that_is_gone_is_not_waited_for(ends, monkeypatch):
    monkeypatch.setattr(ready_pipe, "_LOOK_S", 0.05)
    _, listener = ends
    calls = iter((os.getppid(), os.getppid(), 1))
    monkeypatch.setattr(os, "getppid", lambda: next(calls))
    with pytest.raises(SystemExit, match="the rank is gone"):
        listener.wait_for(1, 5)


def test_nobody_needs_to_hear_it():
    other = ReadyTeller()
    other.give_away()
    other.tell(1, 5)  # its process has died
    other.close()
    taken, into = os.pipe()  # one of them has its number now
    other.tell(1, 6)
    other.close()
    os.set_blocking(taken, False)
    with pytest.raises(BlockingIOError):
        os.read(taken, 1)
    os.close(taken)
    os.close(into)
