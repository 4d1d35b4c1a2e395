"""A thread whose start is not waited for."""

import _thread
import threading

import pytest

from checkpointing.saving.side_thread import SideThread


def test_it_works_beside_and_is_waited_for() -> None:
    opened, done = threading.Event(), []

    def work() -> None:
        assert opened.wait(20)
        done.append(threading.get_ident())

    aside = SideThread(work)
    assert aside.is_alive()
    assert done == []
    opened.set()
    aside.join()
    assert not aside.is_alive()
    assert done != [threading.get_ident()]


def test_where_no_thread_can_be_had_it_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(work: object, arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refused)
    done: list[int] = []
    aside = SideThread(lambda: done.append(threading.get_ident()))
    assert done == [threading.get_ident()]
    assert not aside.is_alive()
    aside.join()
