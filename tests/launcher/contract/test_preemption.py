"""The flag in a rank: set by a signal, quiet in forked children, gone afterwards."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import launcher
from launcher.contract.preemption import (
    WARNING_SIGNALS,
    PreemptionFlag,
    PreemptionNotice,
    signal_name,
)

pytestmark = pytest.mark.timeout(30)


def run_python(source):
    """Run the source in a process of its own; return its exit code and stdout."""
    prelude = (
        "import os, signal, sys, time\nfrom launcher.contract.preemption import PreemptionFlag\n"
    )
    root = str(Path(launcher.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", prelude + source],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("signum", [*WARNING_SIGNALS, signal.SIGINT])
def test_signal_sets_the_flag_and_handlers_are_restored(signum):
    before = {s: signal.getsignal(s) for s in (*WARNING_SIGNALS, signal.SIGINT)}
    flag = PreemptionFlag()
    assert (flag.requested, flag.cause, flag.deadline) == (False, None, None)
    with flag.install() as installed:
        assert installed is flag
        os.kill(os.getpid(), signum)
        assert flag.requested
    assert flag.cause == ("Ctrl-C" if signum == signal.SIGINT else signum.name)
    assert {s: signal.getsignal(s) for s in before} == before


def test_repeated_warnings_are_one():
    flag = PreemptionFlag()
    with flag.install():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)
    assert flag.cause == "SIGUSR1"


def test_second_ctrl_c_is_keyboard_interrupt():
    flag = PreemptionFlag()
    with flag.install():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_under_a_launcher_ctrl_c_twice_is_one_notice(tmp_path):
    # It reaches a rank only where it was sent to every process; the launcher counts them.
    flag = PreemptionFlag(tmp_path / "warning.json")
    with flag.install():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
    assert flag.requested


@pytest.mark.parametrize(
    ("signum", "passed_on", "is_told"),
    [
        ("SIGTERM", "SIGTERM", False),
        ("SIGUSR1", "SIGUSR1", False),
        ("SIGINT", "SIGTERM", False),  # twice it would be an order to kill
        ("SIGTERM", None, True),  # it came from the launcher
    ],
)
def test_what_comes_to_a_rank_alone_is_passed_on_once(tmp_path, signum, passed_on, is_told):
    if is_told:
        PreemptionNotice(cause="SIGTERM").write(tmp_path / "warning.json")
    code, out = run_python(
        f"""
from pathlib import Path
came = []
for name in ("SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1"):
    signal.signal(getattr(signal, name), lambda signum, frame: came.append(signum))
if (rank := os.fork()) == 0:
    flag = PreemptionFlag(Path("{tmp_path}/warning.json"), os.getppid())
    flag.install_until_exit()
    for _ in range(3):
        os.kill(os.getpid(), signal.{signum})
    os._exit(int(not flag.requested))
print(os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]))
time.sleep(0.1)
print([signal.Signals(one).name for one in came])
"""
    )
    assert (code, out) == (0, f"0\n{[] if passed_on is None else [passed_on]}\n")


def test_a_launcher_that_is_gone_is_not_looked_for(tmp_path):
    flag = PreemptionFlag(tmp_path / "warning.json", 1)  # never this process's own parent
    with flag.install():
        os.kill(os.getpid(), signal.SIGTERM)
    assert flag.requested


def test_after_the_end_the_signals_are_ignored():
    code, out = run_python(
        """
flag = PreemptionFlag()
flag.install_until_exit()
flag.ignore_from_now()
for name in ("SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1", "SIGUSR2"):
    os.kill(os.getpid(), getattr(signal, name))
print(flag.requested)
"""
    )
    assert (code, out) == (0, "False\n")


def test_installing_twice_is_harmless():
    before = signal.getsignal(signal.SIGTERM)
    flag = PreemptionFlag()
    with flag.install():
        with flag.install():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
    assert flag.requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        with PreemptionFlag().install() as flag:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert not flag.requested
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_cause_and_deadline_come_from_the_launcher(tmp_path):
    path = tmp_path / "warning.json"
    flag = PreemptionFlag(path)
    PreemptionNotice(cause="time limit", deadline=12.5).write(path)
    assert flag.cause is None
    with flag.install():
        os.kill(os.getpid(), signal.SIGTERM)
    assert (flag.cause, flag.deadline) == ("time limit", 12.5)


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", "null"])
def test_odd_warning_file_is_no_warning_file(tmp_path, text):
    path = tmp_path / "warning.json"
    path.write_text(text)
    assert PreemptionNotice.read(path) is None


@pytest.mark.parametrize(
    ("name", "ended_by"),
    [("SIGTERM", "SIGTERM"), ("SIGHUP", None), ("SIGUSR1", None), ("SIGUSR2", None)],
)
def test_forked_child(name, ended_by):
    # A child must still die of its parent's terminate(), and live on when all are signalled.
    code, out = run_python(
        f"""
with PreemptionFlag().install() as flag:
    child = os.fork()
    if child == 0:
        time.sleep(0.5)
        os._exit(int(flag.requested))
    time.sleep(0.1)
    os.kill(child, signal.{name})
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flag.requested)
"""
    )
    expected = 0 if ended_by is None else -signal.Signals[ended_by]
    assert (code, out) == (0, f"{expected} False\n")


def test_child_that_is_terminated_in_its_first_moment():
    code, out = run_python(
        """
from collections import Counter
ends = Counter()
with PreemptionFlag().install():
    for _ in range(200):
        child = os.fork()
        if child == 0:
            time.sleep(1)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        ends[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] += 1
print(dict(ends))
"""
    )
    assert (code, out) == (0, "{-15: 200}\n")


def test_pool_in_a_rank_can_be_terminated():
    code, out = run_python(
        """
import multiprocessing
with PreemptionFlag().install():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(abs, [-1, 2]))
"""
    )
    assert (code, out) == (0, "[1, 2]\n")


def test_names():
    assert signal_name(15) == "SIGTERM"
    assert signal_name(200) == "signal 200"
