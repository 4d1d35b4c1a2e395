"""Runs that a real Ray Train starts, on two workers of a cluster on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1600)]

ROOT = Path(__file__).parents[3]
WORKERS = Path(__file__).parents[1] / "workers"
DRIVER_S = 1500.0
GATE = 5
"""The step at which the ranks wait for Ray's notice."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder of all runs, and how each ended for Ray."""
    folder = tmp_path_factory.mktemp("ray")
    driver = subprocess.Popen(
        [sys.executable, str(WORKERS / "ray_driver.py"), str(folder), str(GATE)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        start_new_session=True,
    )
    try:
        assert driver.wait(DRIVER_S) == 0
        yield folder, json.loads((folder / "results.json").read_text())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)  # what Ray has left in the driver's session


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The records of the same script on two ranks of one node, without Ray."""
    folder = tmp_path_factory.mktemp("plain")
    program = "from launcher.cli import console; console()"
    words = ("--nproc-per-node", "2", "--strategy", "ddp", "--run-dir", str(folder / "run"))
    subprocess.run(
        [sys.executable, "-c", program, *words, str(WORKERS / "ray_script.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        check=True,
    )
    return curve(folder / "run")


def curve(run_dir: Path) -> list[dict[str, Any]]:
    """Return what of the metrics does not depend on clocks and starts."""
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    names = ("step", "samples", "grad_norm", "loss", "lr")
    return [{name: record.get(name) for name in names} for record in records]


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    records = map(json.loads, (run_dir / "events.jsonl").read_text().splitlines())
    return [record for record in records if record["event"] == kind]


def test_a_drained_node_costs_no_step(
    done: tuple[Path, dict[str, Any]], plain: list[dict[str, Any]]
) -> None:
    folder, results = done
    run_dir = folder / "drained"
    first, second = events(run_dir, "start")
    assert not first["resumed"]
    assert (second["resumed"], second["lost_steps"]) == (True, 0)
    left = events(run_dir, "end")[0]
    assert left["step"] == second["step"] >= GATE
    assert [one["code"] for one in events(run_dir, "attempt")] == [75, 0]
    assert curve(run_dir) == plain
    assert results["drained"]["returned"]["step"] == plain[-1]["step"]


def test_the_notice_names_ray_and_its_deadline(done: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = done
    for rank in (0, 1):
        printed = (folder / "drained" / "logs" / f"ray-worker-{rank}.log").read_text()
        assert re.search(r"relaunch: Ray preempts node \w{8}: the ranks have \d+ s\.", printed)


def test_what_is_refused_is_one_sentence(done: tuple[Path, dict[str, Any]]) -> None:
    _, results = done
    kinds, texts = zip(*results["refused"]["failures"], strict=True)
    assert set(kinds) == {"RunRefused"}
    assert all("fp99" in text for text in texts)
