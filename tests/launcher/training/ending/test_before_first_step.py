"""Before its first step a rank leaves at once, whatever its main thread does."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launcher.training.ending.before_first_step import silence_threads

ROOT = Path(__file__).parents[4]
PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from launcher.training.ending.before_first_step import BeforeFirstStep, leave_with_nothing_to_save
from launcher.contract.preemption import PreemptionFlag
flag = PreemptionFlag()
flag.install_until_exit()
start = BeforeFirstStep(
    flag, lambda signum: leave_with_nothing_to_save(Path("leaving"), lambda: print("left"))
)
"""


def run(source: str, folder: Path, signals: tuple[int, ...]) -> tuple[int, str]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", PRELUDE + source],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for signum in signals:
        process.send_signal(signum)
    # Not `communicate`: with a timeout it reads past what `readline` has buffered, and loses it.
    out = process.stdout.read()
    return process.wait(timeout=30), out


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1])
def test_a_notice_ends_it_amid_a_call_that_runs_no_handler(tmp_path, signum) -> None:
    # A lock that is not to be had: Python's handlers run only after such a call.
    source = """
import threading, _thread
start.begin()
print("ready")
lock = _thread.allocate_lock(); lock.acquire()
signal.pthread_sigmask(signal.SIG_BLOCK, ())
os.read(os.pipe()[0], 1)
"""
    assert run(source, tmp_path, (signum,)) == (75, "left\n")
    assert '"code": 75' in (tmp_path / "leaving").read_text()


def test_after_the_first_step_it_waits_for_the_ranks(tmp_path) -> None:
    source = """
start.begin()
start.end()
print("ready")
while not flag.requested: time.sleep(0.01)
time.sleep(0.2)
print("saved")
"""
    assert run(source, tmp_path, (signal.SIGTERM, signal.SIGHUP)) == (0, "saved\n")
    assert not (tmp_path / "leaving").exists()


def test_while_paused_a_notice_waits_for_the_next_part(tmp_path) -> None:
    source = """
start.begin()
start.pause()
print("ready")
while not flag.requested: time.sleep(0.01)
time.sleep(0.2)
print("of the script")
start.leave_if_asked()
print("never")
"""
    assert run(source, tmp_path, (signal.SIGTERM,)) == (75, "of the script\nleft\n")


def test_what_came_before_it_began_counts(tmp_path) -> None:
    source = """
print("ready")
while not flag.requested: time.sleep(0.01)
start.begin()
"""
    assert run(source, tmp_path, (signal.SIGUSR2,)) == (75, "left\n")


def test_what_comes_to_a_child_is_not_for_it(tmp_path) -> None:
    source = """
start.begin()
if (child := os.fork()) == 0:
    time.sleep(5)
    os._exit(0)
print("ready")
os.kill(child, signal.SIGHUP)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
time.sleep(0.2)
"""
    assert run(source, tmp_path, ()) == (0, "-15\n")


def test_end_is_harmless_without_a_begin_and_twice(tmp_path) -> None:
    source = """
BeforeFirstStep(flag).end()
start.begin()
start.end()
start.end()
print("ready")
"""
    assert run(source, tmp_path, ()) == (0, "")


def test_other_signals_are_none(tmp_path) -> None:
    source = """
signal.signal(signal.SIGALRM, lambda *a: None)
start.begin()
print("ready")
time.sleep(0.5)
print("on")
"""
    assert run(source, tmp_path, (signal.SIGALRM,)) == (0, "on\n")


def test_a_rank_that_leaves_shows_no_exception_of_another_thread(monkeypatch) -> None:
    """As multiprocessing's resource sharer prints one, where a loader's worker is gone."""
    shown = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: shown.append(str(error)))
    silence_threads()
    lost = ConnectionResetError("of a thread")
    thread = threading.Thread(target=lambda: sys.excepthook(type(lost), lost, None))
    thread.start()
    thread.join()
    sys.excepthook(ValueError, ValueError("of the script"), None)
    assert shown == ["of the script"]
