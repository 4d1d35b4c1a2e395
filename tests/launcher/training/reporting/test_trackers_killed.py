"""What trackers show of a run whose first start was killed, and whose second did steps again.

TensorBoard's here; those of Accelerate where they are installed, all without a network.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.training.reporting.trackers import FOLDER, Trackers

ROOT = Path(__file__).parents[4]
FIRST = [(step, 1.0) for step in (1, 2, 3, 4, 5)]
"""Killed after step 5; what was saved last is step 3."""
SECOND = [(step, 2.0) for step in (4, 5, 6, 7, 8)]
START = """
import os, signal, sys, time
from pathlib import Path
from launcher.training.reporting.trackers import Trackers

name, first = sys.argv[1], int(sys.argv[2])
warned = []
trackers = Trackers(
    [name], Path("run"), first_step=first, description={"attempt": first}, warn=warned.append
)
for step in range(first + 1, first + 6):
    trackers.log({"step": step, "loss": 2.0 if first else 1.0})
assert not warned, warned
if not first:
    time.sleep(float(sys.argv[3]))  # these send from a process or thread of their own
    os.kill(os.getpid(), signal.SIGKILL)
trackers.finish()
"""


def test_tensorboard_shows_each_step_once_after_a_kill(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed = Trackers(None, tmp_path, first_step=0, description={}, warn=pytest.fail)
    for step, loss in FIRST:
        killed.log({"step": step, "loss": loss})
    killed._open.clear()  # nobody closes the file
    (file,) = (tmp_path / FOLDER).iterdir()
    os.truncate(file, file.stat().st_size - 7)  # in the middle of its last record
    trackers = Trackers(None, tmp_path, first_step=3, description={}, warn=pytest.fail)
    for step, loss in SECOND:
        trackers.log({"step": step, "loss": loss})
    trackers.finish()
    found = EventAccumulator(str(tmp_path / FOLDER)).Reload().Scalars("train/loss")
    assert [(f.step, f.value) for f in found] == FIRST[:3] + SECOND


def of_mlflow(folder):
    (values,) = folder.glob("mlruns/*/*/metrics/train/loss")
    rows = [line.split() for line in values.read_text().splitlines()]
    return [(int(step), float(value)) for _, value, step in rows]


def of_trackio(folder):
    (database,) = folder.glob("trackio/*.db")
    with sqlite3.connect(database) as opened:
        rows = opened.execute("SELECT DISTINCT run_name FROM metrics").fetchall()
        assert len(rows) == 1, rows
        found = opened.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    return [(step, json.loads(metrics)["train/loss"]) for step, metrics in found]


def start_twice(tmp_path, name):
    """Start a run that is killed after step 5, and again from step 3."""
    pytest.importorskip(name)
    (tmp_path / "run").mkdir()
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "MLFLOW_TRACKING_URI": f"file://{tmp_path}/mlruns",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "SWANLAB_MODE": "offline",
    }
    for first, code in (("0", -signal.SIGKILL), ("3", 0)):
        done = subprocess.run(
            [sys.executable, "-c", START, name, first, "5"],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize(("name", "shown"), [("mlflow", of_mlflow), ("trackio", of_trackio)])
def test_a_second_start_goes_on_in_the_same_run_and_shows_repeated_steps_twice(
    tmp_path, name, shown
):
    """Neither can take a step back: the newer value stands behind the older one."""
    start_twice(tmp_path, name)
    assert shown(tmp_path) == FIRST + SECOND


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.parametrize(
    ("name", "folders"), [("wandb", "wandb/offline-run-*-*"), ("swanlab", "swanlab/run-*-*")]
)
def test_offline_each_start_writes_a_folder_under_the_same_id(tmp_path, name, folders):
    """Their own commands then send the folders, as one run, to a server."""
    start_twice(tmp_path, name)
    found = [path.name for path in (tmp_path / "run").glob(folders) if path.is_dir()]
    assert len(found) == 2, found
    identity = (tmp_path / "run" / "run_id").read_text()
    assert {name.rpartition("-")[2] for name in found} == {identity}
