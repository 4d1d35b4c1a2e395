"""What a keeper does for its command: kept alive to save where the keeper is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.workers import keeper

WAIT_S = 60.0
COMMAND = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def leave(signum, frame):
    (folder / "left").write_text(str(signum))
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
(folder / "ready").touch()
time.sleep(60)
"""


def start(*command: str, parent: int | None = None) -> subprocess.Popen[bytes]:
    own = [sys.executable, "-I", "-S", keeper.__file__, str(parent or os.getpid())]
    return subprocess.Popen([*own, *command])


def kept(folder: Path) -> subprocess.Popen[bytes]:
    process = start(sys.executable, "-c", COMMAND, str(folder))
    wait_for(folder / "ready")
    return process


def wait_for(path: Path) -> None:
    end = time.monotonic() + WAIT_S
    while not path.exists() or (path.name == "left" and not path.read_text()):
        assert time.monotonic() < end, f"waited for {path}"
        time.sleep(0.01)


def test_sigterm_is_passed_on_and_the_exit_code_back(tmp_path: Path) -> None:
    process = kept(tmp_path)
    process.terminate()
    assert process.wait(WAIT_S) == 75
    assert (tmp_path / "left").read_text() == str(int(signal.SIGTERM))


def test_the_command_of_a_killed_keeper_is_asked_to_leave(tmp_path: Path) -> None:
    process = kept(tmp_path)
    process.kill()
    process.wait(WAIT_S)
    wait_for(tmp_path / "left")
    assert (tmp_path / "left").read_text() == str(int(signal.SIGTERM))


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 3", 3), ("kill -KILL $$", 128 + signal.SIGKILL)],
)
def test_the_code_of_the_command(command: str, code: int) -> None:
    assert start("/bin/sh", "-c", command).wait(WAIT_S) == code


def test_without_its_parent_it_starts_nothing(tmp_path: Path) -> None:
    process = start("/bin/touch", str(tmp_path / "began"), parent=1)
    assert process.wait(WAIT_S) == 128 + signal.SIGKILL
    assert not (tmp_path / "began").exists()
