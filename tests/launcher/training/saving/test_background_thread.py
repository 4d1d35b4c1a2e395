import threading

import pytest

from launcher.training.saving.background_thread import BackgroundThread


def test_actions_run_beside_and_one_after_the_other() -> None:
    aside, go_on, done = BackgroundThread("test-aside"), threading.Event(), []

    def first() -> None:
        assert go_on.wait(20)
        done.append((1, threading.current_thread().name))

    aside.start(first)
    assert done == []
    threading.Timer(0.1, go_on.set).start()
    aside.start(lambda: done.append((2, threading.current_thread().name)))
    aside.wait()
    assert done == [(1, "test-aside"), (2, "test-aside")]
    aside.wait()


def test_what_was_raised_is_raised_once_where_it_is_waited_for() -> None:
    aside = BackgroundThread("test-aside")

    def fail() -> None:
        raise LookupError("gone")

    aside.start(fail)
    with pytest.raises(LookupError, match="gone"):
        aside.wait()
    aside.wait()


def test_without_a_thread_it_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    aside, done = BackgroundThread("test-aside"), []
    aside.start(lambda: done.append(1))
    assert done == [1]
    aside.wait()
