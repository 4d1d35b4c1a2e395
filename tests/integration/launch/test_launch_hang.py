"""`--hang-timeout`: where hanging ranks are is written down, then they are killed."""

import os
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(120)

HANGS = """
from launcher import beat
beat(3)
pathlib.Path(f"ready-{rank}").touch()
def waits_for_ever():
    time.sleep(100)
waits_for_ever()
"""


HOW = {
    "asleep": "time.sleep(100)",
    # PyDLL, other than CDLL, keeps the interpreter's lock while the C function runs. No signal ends
    # the wait for a lock, as it would a sleep.
    "in C, with the lock": "import ctypes; lock = ctypes.create_string_buffer(64); "
    "[ctypes.PyDLL(None).pthread_mutex_lock(lock) for _ in range(2)]",
    "deaf": "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)",
}


@pytest.mark.parametrize("how", HOW)
def test_stacks_are_written_and_the_ranks_are_killed(launch, how):
    words = ("--nproc", "2", "--hang-timeout", "1.5", "--log-dir", "logs")
    launched = launch(*words, launch.script(HANGS.replace("time.sleep(100)", HOW[how])))
    assert launched.wait() == 137
    stacks = launch.folder / "logs/attempt-1/stacks.txt"
    assert launched.said() == [
        "relaunch: no rank made progress for 1.5 s after step 3; killing all of them. "
        f"Where they were: {stacks}"
    ]
    assert stacks.read_text().count("in waits_for_ever") == 2
    assert "rank 1 (pid " in stacks.read_text()


def test_a_hang_counts_as_a_failure(launch):
    words = ("--hang-timeout", "1", "--max-restarts", "3")
    launched = launch(*words, launch.script(HANGS))
    assert launched.wait() == 137
    said = launched.said()
    assert any("in waits_for_ever" in line for line in said)
    assert said[-1] == (
        "relaunch: not restarting: it failed twice after step 3 with the same error."
    )


def test_scripts_without_signs_of_life_are_left_alone(launch):
    launched = launch("--hang-timeout", "0.5", launch.script("time.sleep(2)"))
    assert launched.wait() == 0


def test_a_suspended_machine_takes_nobody_for_hanging(launch):
    script = launch.script(
        """
        from launcher import beat
        while not pathlib.Path("end").exists():
            beat(1)
            pathlib.Path("ready").touch()
            time.sleep(0.01)
        """
    )
    launched = launch("--hang-timeout", "4", script)
    launched.wait_for_files("ready", cwd=launch.folder)
    (rank,) = launched.processes()
    everything = (launched.pid, rank)
    for pid in everything:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(5)
    for pid in everything:
        os.kill(pid, signal.SIGCONT)
    time.sleep(0.5)
    (launch.folder / "end").touch()
    assert launched.wait() == 0
    assert launched.stderr == ""
