"""A rank's sign of life."""

import os
import signal
import subprocess
import sys

import pytest

from launcher.contract.files.heartbeat import Beat, Heartbeat, read_beat


def test_what_is_said_is_read(tmp_path):
    path = tmp_path / "heartbeat"
    assert read_beat(path) is None
    heartbeat = Heartbeat(path)
    assert read_beat(path) is None
    heartbeat.beat()
    assert read_beat(path) == Beat(count=1, step=None)
    heartbeat.beat(7)
    heartbeat.beat()
    assert read_beat(path) == Beat(count=3, step=7)


def test_without_a_place_it_does_nothing(tmp_path):
    Heartbeat(None).beat(1)
    Heartbeat(tmp_path / "no" / "folder").beat(1)


@pytest.mark.timeout(30)
def test_the_hook_for_scripts(tmp_path):
    source = "from launcher.contract.files.heartbeat import beat\nbeat(4)\nimport os, signal\n"
    source += "os.kill(os.getpid(), signal.SIGQUIT)\nbeat(5)"
    files = {"RELAUNCH_HEARTBEAT_FILE": tmp_path / "h", "RELAUNCH_STACKS_FILE": tmp_path / "s"}
    environ = {**os.environ, **{name: str(path) for name, path in files.items()}}
    assert signal.SIGQUIT == 3
    done = subprocess.run([sys.executable, "-c", source], env=environ, timeout=20)
    assert done.returncode == 0
    assert read_beat(tmp_path / "h") == Beat(count=2, step=5)
    assert "Current thread" in (tmp_path / "s").read_text()


def test_a_second_one_of_the_same_rank_goes_on_counting(tmp_path):
    Heartbeat(tmp_path / "beat").beat(4)
    Heartbeat(tmp_path / "beat").beat()
    assert read_beat(tmp_path / "beat") == Beat(count=2, step=4)
