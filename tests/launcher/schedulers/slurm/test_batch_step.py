"""The batch step's process: what it starts, and what the end of that means."""

import os
import signal
import sys
import threading
import time

import pytest

from launcher.contract.launcher_signals import SignalInbox
from launcher.schedulers.slurm.batch_step import AgentStep, code_of_srun

USR1 = int(signal.SIGUSR1)


@pytest.mark.parametrize(
    ("status", "passed_on", "code"),
    [
        (0, False, 0),
        (75, True, 75),
        (3, True, 3),
        (-USR1, True, 75),
        (-USR1, False, 138),
        (-int(signal.SIGKILL), True, 137),
    ],
)
def test_the_code_of_the_agents(status, passed_on, code):
    assert code_of_srun(status, passed_on=passed_on) == code


def test_a_notice_that_ends_srun_before_it_listens_has_cost_nothing():
    inbox = SignalInbox()
    step = AgentStep([sys.executable, "-c", "import time; time.sleep(100)"], dict(os.environ))
    inbox.warned_by = int(signal.SIGTERM)
    assert step.wait(inbox) == 75


def test_a_notice_is_passed_on_once(tmp_path):
    told = tmp_path / "told"
    source = f"""
import pathlib, signal, sys, time
told = pathlib.Path({str(told)!r})
def handle(signum, frame):
    with told.open("a") as file: file.write(signal.Signals(signum).name)
signal.signal(signal.SIGUSR1, handle)
told.with_name("ready").touch()
while not told.exists(): time.sleep(0.05)
time.sleep(1)
sys.exit(75)
"""
    inbox = SignalInbox()
    step = AgentStep([sys.executable, "-c", source], dict(os.environ))

    def warn():
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        inbox.warned_by = int(signal.SIGTERM)

    thread = threading.Thread(target=warn)
    thread.start()
    assert step.wait(inbox) == 75
    thread.join()
    assert told.read_text() == "SIGUSR1"
