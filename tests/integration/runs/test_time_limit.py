"""A run that knows when it will be killed leaves in time, without any signal."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[3]


def start(small: str, cwd: Path, left_s: float) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environ["RELAUNCH_END_TIME"] = str(time.time() + left_s)
    words = [sys.executable, small, "--save-every", "1000 steps", "--epochs", "3"]
    return subprocess.run(
        words, cwd=cwd, env=environ, timeout=100, capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "small"


def test_it_saves_and_leaves_and_later_there_is_no_time_for_a_save(
    run: Any, small: str, tmp_path: Path, folder: Path
) -> None:
    run = run.__class__(folder)
    # As an earlier attempt on a busy file system would have left it.
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text(json.dumps({"event": "saved", "seconds": 900}) + "\n")

    first = start(small, tmp_path, left_s=600)
    assert first.returncode == 75, first.stderr
    assert "the time limit comes in" in first.stdout
    # There was nothing on disk, so a save that might be cut off was worth trying.
    [end] = run.events("end")
    assert run.steps_on_disk() == [end["step"]]
    assert f"saved step {end['step']}. The same command resumes the run." in first.stdout

    with (folder / "events.jsonl").open("a") as events:
        events.write(json.dumps({"event": "saved", "seconds": 900}) + "\n")
    second = start(small, tmp_path, left_s=600)
    assert second.returncode == 75, second.stderr
    assert "are too short for a save, which takes 900.0 s" in second.stdout
    assert f"The same command resumes from step {end['step']}." in second.stdout
    assert run.steps_on_disk() == [end["step"]]
    assert run.events("end")[1]["step"] > end["step"]

    third = start(small, tmp_path, left_s=100_000)
    assert third.returncode == 0, third.stderr
    assert run.events("end")[2]["ending"] == "completed"
