"""`relaunch checkpoint ...` as a process: without torch, and into a pipe that is closed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import launcher

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "safetensors", "deepspeed", "accelerate"):
            raise ImportError(f"{name} must not be imported here")
sys.meta_path.insert(0, Block())
from launcher.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("list F", 0),
        ("list F --json", 0),
        ("show F", 0),
        ("verify F", 0),
        ("diff F F", 0),
        ("prune F --keep 1 --yes", 0),
        ("list F/nothing", 2),
        ("--help", 0),
    ],
)
def test_without_torch(folder, words, code):
    command = [word.replace("F", str(folder), 1) for word in words.split()]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "checkpoint", *command],
        env={**os.environ, "PYTHONPATH": str(Path(launcher.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert bool(done.stderr) == (code == 2)


def test_a_reader_that_has_seen_enough_is_no_error(folder):
    started = time.monotonic()
    command = [sys.executable, "-c", BLOCKED, "checkpoint", "show", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(Path(launcher.__file__).parents[1])}
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 141
    assert time.monotonic() - started < 30
