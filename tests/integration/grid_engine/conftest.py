"""One Grid Engine for all tests of this folder, and jobs of a small training script in it."""

import contextlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def load(name: str, path: Path) -> ModuleType:
    """Import a file beside the tests, which are no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


grid = load("grid_engine_cluster", Path(__file__).with_name("cluster.py"))
runs = load("runs_of_grid_engine", Path(__file__).parents[1] / "runs" / "conftest.py")
SMALL = Path(__file__).parents[1] / "workers" / "small.py"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    if (why := grid.missing()) is not None:
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="ge-"))
    folder.chmod(0o755)
    cluster = grid.Cluster(folder)
    try:
        cluster.start()
    except (OSError, AssertionError, subprocess.SubprocessError) as error:
        logs = "".join(path.read_text()[-500:] for path in sorted(folder.glob("*.log")))
        cluster.stop()
        pytest.skip(f"Grid Engine cannot be started here: {error}\n{logs}")
    yield cluster
    left = cluster.stop()
    shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"the jobs left processes: {left}"


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """The folder of this test's run."""
    return runs.Seen(tmp_path / "run")


@dataclass
class Jobs:
    """Submits jobs in a folder of their own, and deletes what a test leaves."""

    cluster: Any
    folder: Path
    run: Any
    submitted: list[str] = field(default_factory=list)
    relaunch: str = grid.RELAUNCH

    def train(self, *options: str, script: str = "") -> str:
        """Submit a run of the small script; return the job's number."""
        words = f"--nproc-per-node 1 --run-dir {self.run.path} {SMALL} {script}"
        return self.submit(*options, body=f"exec {grid.RELAUNCH} {words}")

    def submit(self, *options: str, body: str) -> str:
        """Submit a job script; return the job's number."""
        path = self.folder / f"job-{len(self.submitted)}.sh"
        path.write_text(f"#!/bin/bash\n{body}\n")
        words = ("-terse", "-V", "-wd", str(self.folder), "-j", "y", "-o", f"{self.folder}/out.txt")
        job = str(self.cluster.ask("qsub", *words, *options, str(path)))
        self.submitted.append(job)
        return job

    @property
    def said(self) -> str:
        out = self.folder / "out.txt"
        return out.read_text() if out.exists() else ""

    def wait_for_step(self, step: int) -> None:
        self.until(lambda: self.run.last_step() >= step, f"step {step}")

    def wait_for_starts(self, number: int) -> None:
        self.until(lambda: len(self.run.events("start")) >= number, f"start {number}")

    def wait_for_end(self, job: str) -> None:
        self.until(lambda: not self.cluster.state(job), f"the end of job {job}")

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 200.0) -> None:
        try:
            grid.until(condition, what, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said}\n{self.cluster.ask('qstat')}") from None


@pytest.fixture
def jobs(cluster: Any, tmp_path: Path, run: Any) -> Iterator[Jobs]:
    jobs = Jobs(cluster, tmp_path, run)
    yield jobs
    for job in jobs.submitted:
        with contextlib.suppress(subprocess.SubprocessError):
            cluster.ask("qdel", "-f", job)
    grid.until(lambda: not cluster.processes(), "the jobs' end", 60)
