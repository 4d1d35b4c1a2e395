"""What the launcher remembers of the signals sent to it."""

import itertools
import os
import select
import signal

import pytest

from launcher.contract.launcher_signals import (
    BEFORE_RANKS_S,
    ENDED_AT_ONCE,
    SAME_KEYPRESS_S,
    WARNINGS,
    SignalInbox,
)
from launcher.workers.worker import wait_for_an_end


@pytest.fixture
def inbox(monkeypatch):
    handled = (*WARNINGS, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM)
    before = {signum: signal.getsignal(signum) for signum in handled}
    clock = [100.0]
    monkeypatch.setattr("launcher.contract.launcher_signals.time.monotonic", lambda: clock[0])
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


def test_a_wait_ends_when_a_signal_comes(inbox):
    inbox.install()
    assert inbox.wake_fd is None
    inbox.ranks_start()
    assert not select.select([inbox.wake_fd], [], [], 0)[0]
    signal.raise_signal(signal.SIGTERM)
    assert select.select([inbox.wake_fd], [], [], 0)[0]
    wait_for_an_end((), 60.0, inbox.wake_fd)  # returns at once, and has read it
    assert not select.select([inbox.wake_fd], [], [], 0)[0]
    os.close(inbox.wake_fd)


def test_second_ctrl_c_after_the_ranks_have_started(inbox):
    inbox.install()
    inbox.ranks_start()
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    assert (inbox.warned_by, inbox.kill_now) == (signal.SIGINT, False)
    inbox.clock[0] += SAME_KEYPRESS_S + 0.1
    signal.raise_signal(signal.SIGINT)
    assert inbox.kill_now


def test_second_ctrl_c_before_the_ranks_ends_the_launcher(inbox, monkeypatch, capfd):
    killed = []
    kill = "launcher.contract.launcher_signals.os.kill"
    monkeypatch.setattr(kill, lambda pid, signum: killed.append(signum))
    inbox.install()
    for _ in range(2):  # one keypress, forwarded by a wrapper
        signal.raise_signal(signal.SIGINT)
    assert (inbox.warned_by, killed) == (signal.SIGINT, [])
    inbox.clock[0] += BEFORE_RANKS_S - 0.1  # the handler had to wait for an import
    signal.raise_signal(signal.SIGINT)
    assert killed == []
    inbox.clock[0] += 0.2
    signal.raise_signal(signal.SIGINT)
    assert killed == [signal.SIGINT]
    assert capfd.readouterr().err == ENDED_AT_ONCE
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


@pytest.mark.parametrize("more", [(), (signal.SIGALRM,)])
@pytest.mark.parametrize("order", list(itertools.permutations((*WARNINGS, signal.SIGINT)))[::7])
def test_any_order_of_notices_twice_is_one_notice(inbox, order, more):
    inbox.install(more)
    inbox.ranks_start()
    for signum in (*order, *more, *order):
        signal.raise_signal(signum)
        inbox.clock[0] += 0.01
    assert (inbox.warned_by, inbox.kill_now) == (order[0], False)
    inbox.close()
    for signum in (*order, *more):
        assert signal.getsignal(signum) is signal.SIG_IGN
        signal.raise_signal(signum)


def test_ignored_signals_stay_ignored(inbox):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    inbox.install()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


def test_nothing_is_taken_that_was_not_handled(inbox):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    inbox.install()
    inbox.close()
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
