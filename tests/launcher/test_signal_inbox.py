"""What the launcher remembers of the signals sent to it."""

import signal

import pytest

from launcher.signal_inbox import SAME_KEYPRESS_S, WARNINGS, SignalInbox


@pytest.fixture
def inbox(monkeypatch):
    handled = (*WARNINGS, signal.SIGINT, signal.SIGCHLD)
    before = {signum: signal.getsignal(signum) for signum in handled}
    clock = [100.0]
    monkeypatch.setattr("launcher.signal_inbox.time.monotonic", lambda: clock[0])
    inbox = SignalInbox()
    inbox.clock = clock
    yield inbox
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_the_first_warning_is_remembered(inbox):
    inbox.install()
    for signum in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(signum)
    assert inbox.warned_by == signal.SIGUSR2
    assert not inbox.kill_now


def test_second_ctrl_c_after_the_ranks_have_started(inbox):
    inbox.install()
    inbox.ranks_start()
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert (inbox.warned_by, inbox.kill_now) == (signal.SIGINT, False)
    inbox.clock[0] += SAME_KEYPRESS_S + 0.1
    signal.raise_signal(signal.SIGINT)
    assert inbox.kill_now


def test_second_ctrl_c_before_the_ranks_ends_the_launcher(inbox):
    inbox.install()
    signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def test_ignored_signals_stay_ignored(inbox):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    inbox.install()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
