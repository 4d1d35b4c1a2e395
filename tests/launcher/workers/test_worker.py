"""A worker process and the mask of the signals that it catches."""

import os
import signal
import sys
import time

import pytest

from launcher.plan.program import for_local_rank
from launcher.workers.worker import Worker, WorkerStreams, catches

pytestmark = pytest.mark.timeout(30)

STATUS = "Name:\tpython\nSigIgn:\t0000000000001000\nSigCgt:\t{mask:016x}\n"


@pytest.mark.parametrize(
    ("mask", "signum", "caught"),
    [
        (1 << 14, signal.SIGTERM, True),
        (1 << 1, signal.SIGTERM, False),
        ((1 << 14) | 2, signal.SIGINT, True),
        (0, signal.SIGUSR1, False),
    ],
)
def test_catches(mask, signum, caught):
    assert catches(STATUS.format(mask=mask), signum) is caught


def test_catches_without_a_mask():
    assert not catches("", signal.SIGTERM)


def start(source):
    command = [sys.executable, "-S", "-c", source]
    return Worker.start(command, dict(os.environ), WorkerStreams(), rank=1, local_rank=1)


def wait(worker):
    while (status := worker.poll()) is None:
        time.sleep(0.01)
    return status


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("", 0),
        ("raise SystemExit(42)", 42),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.abort()", -signal.SIGABRT),
    ],
)
def test_status(source, status):
    worker = start(source)
    assert wait(worker) == status
    assert worker.poll() == status, "looking does not reap"
    worker.release(1.0)
    assert worker.poll() == status
    with pytest.raises(ChildProcessError):
        os.waitpid(worker.pid, os.WNOHANG)


def test_handler_is_seen_when_it_is_there():
    worker = start(
        "import os, signal, time; signal.signal(15, lambda *a: os._exit(7)); time.sleep(20)"
    )
    while not worker.catches_sigterm():
        time.sleep(0.01)
    worker.tell(signal.SIGTERM)
    assert wait(worker) == 7
    worker.release(1.0)


def test_parent_death_signal_survives_the_exec():
    worker = start(
        "import ctypes, os\n"
        "found = ctypes.c_int()\n"
        "ctypes.CDLL(None).prctl(2, ctypes.byref(found))\n"
        "os._exit(found.value)"
    )
    assert wait(worker) == signal.SIGKILL
    worker.release(1.0)


def test_ended_worker_takes_signals_in_silence():
    worker = start("")
    wait(worker)
    worker.tell(signal.SIGTERM)
    worker.kill()
    worker.release(1.0)


@pytest.mark.parametrize(
    ("word", "filled"),
    [
        ("--at=${local_rank}", "--at=3"),
        ("$local_rank", "3"),
        ("$$5", "$5"),
        ("${other}$", "${other}$"),
        ("plain", "plain"),
    ],
)
def test_macros_in_the_words_of_a_rank(word, filled):
    assert for_local_rank(("/opt/$$/python", "-u", word), 3) == ("/opt/$$/python", "-u", filled)
