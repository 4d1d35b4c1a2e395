"""How far an image is whole, told from one process to another."""

import os
import threading

import pytest

from checkpointing.background import copy_progress as ready_pipe
from checkpointing.background.copy_progress import ReadyListener, ReadyTeller
from checkpointing.background.writer import ImagePart


@pytest.fixture
def ends():
    teller = ReadyTeller()
    listener = ReadyListener(teller.read_fd, os.getppid())
    yield teller, listener
    teller.close()


def test_what_was_told_need_not_be_waited_for(ends):
    teller, listener = ends
    for ready_bytes in (0, 10, 20):
        teller.tell(7, ready_bytes)
    listener.begin(7)
    for wanted_bytes in (0, 1, 10, 20):
        listener.wait_for(wanted_bytes)


def test_what_is_not_there_is_waited_for(ends):
    teller, listener = ends
    came = threading.Event()

    listener.begin(7)

    def wait():
        listener.wait_for(20)
        came.set()

    threading.Thread(target=wait, daemon=True).start()
    teller.tell(7, 19)
    assert not came.wait(0.2)
    teller.tell(7, 20)
    assert came.wait(10)


def test_what_an_earlier_save_tells_is_not_of_this_one(ends):
    teller, listener = ends
    listener.begin(1)
    listener.wait_for(0)
    for ready_bytes in range(300):  # more than one read takes
        teller.tell(1, ready_bytes)
    teller.tell(2, 5)
    listener.begin(2)
    listener.wait_for(5)
    teller.tell(1, 1000)
    os.close(teller._fd)
    teller._fd = -1
    with pytest.raises(SystemExit, match="the rank is gone"):
        listener.wait_for(6)
    os.close(teller.read_fd)


def test_a_rank_that_is_gone_is_not_waited_for(ends, monkeypatch):
    monkeypatch.setattr(ready_pipe, "_LOOK_S", 0.05)
    _, listener = ends
    parent = os.getppid()  # 1, where the tests run in the background of a shell that has ended
    calls = iter((parent, parent, parent + 1))
    monkeypatch.setattr(os, "getppid", lambda: next(calls))
    listener.begin(1)
    with pytest.raises(SystemExit, match="the rank is gone"):
        listener.wait_for(5)


@pytest.mark.timeout(60)
def test_a_disk_that_refuses_every_save_does_not_fill_the_pipe(tmp_path, writers):
    writer = writers()
    writer.image(1000)
    part = ImagePart(path=tmp_path / "missing" / "file", start=0, size_bytes=1000)
    for _ in range(100):
        tell = writer.submit([part], 100)
        for ready_bytes in range(64):
            tell(ready_bytes)
        assert "missing" in writer.receive(wait=True)["error"]


def test_nobody_needs_to_hear_it():
    other = ReadyTeller()
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
