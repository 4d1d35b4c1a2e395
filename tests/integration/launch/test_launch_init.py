"""relaunch as the first process of a container (PID 1), in a process namespace of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(60)
ROOT = Path(__file__).parents[3]

CONSOLE = """
import os, pathlib, signal, subprocess, sys, time
import launcher.command
from launcher.cli import console

def state(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it is gone, perhaps between open and read
        return None

def wait(condition, what):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)

def leave_with(words, inbox):
"""
LAUNCHER = """
sys.argv = ["relaunch", "train.py"]
launcher.command.leave_with = leave_with
console()
"""


def as_init(body: str, before: str = "") -> "subprocess.CompletedProcess[str]":
    """Run `console` as PID 1 with a launcher of our own, without torch."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare command")
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*words, "true"], capture_output=True).returncode != 0:
        pytest.skip("no process namespaces here")
    source = CONSOLE + "".join(f"    {line}\n" for line in body.splitlines()) + before + LAUNCHER
    return subprocess.run(
        [*words, sys.executable, "-c", source],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_an_orphan_is_reaped():
    done = as_init(
        """
command = ["sh", "-c", "sleep 0.05 >&- & echo $!"]
orphan = int(subprocess.run(command, capture_output=True, text=True).stdout)
wait(lambda: state(orphan) is None, f"{orphan} is {state(orphan)}")
print(os.getpid() == 1, os.getppid())
return 0
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "False 1\n", "")


def test_a_signal_to_it_is_a_notice():
    done = as_init(
        """
os.kill(1, signal.SIGTERM)
wait(lambda: inbox.warned_by, "no notice")
print(signal.Signals(inbox.warned_by).name, signal.pthread_sigmask(signal.SIG_BLOCK, ()))
return 75
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (75, "SIGTERM set()\n", "")


def test_a_notice_before_the_handlers_are_there_is_kept():
    """What comes while PID 1 splits is held back until the child handles it."""
    done = as_init(
        "print(inbox.num_warnings, inbox.warned_by)\nreturn 75",
        before="""
from launcher.contract.launcher_signals import SignalInbox
install = SignalInbox.install
def late(inbox, *more):
    os.kill(1, signal.SIGUSR1)  # forwarded to this process, which does not handle it yet
    wait(lambda: signal.sigpending(), "not forwarded")
    SignalInbox.install = install
    install(inbox, *more)
SignalInbox.install = late
""",
    )
    assert (done.returncode, done.stdout, done.stderr) == (75, "1 10\n", "")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return 93", 93),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        # As a second Ctrl-C before the ranks exist does: PID 1 itself would not end by it.
        ("signal.signal(2, signal.SIG_DFL)\nos.kill(os.getpid(), 2)\ntime.sleep(40)", 130),
    ],
)
def test_the_code_is_that_of_the_launcher(body, code):
    assert as_init(body).returncode == code
