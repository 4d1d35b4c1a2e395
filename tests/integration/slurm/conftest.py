"""One Slurm for all tests of this folder, and jobs of a small training script in it."""

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

from tests.proc_files import proc_bytes


def load(name: str, path: Path) -> ModuleType:
    """Import a file beside the tests, which are no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


slurm = load("slurm_cluster", Path(__file__).with_name("cluster.py"))
runs = load("runs_of_slurm", Path(__file__).parents[1] / "runs" / "conftest.py")
until = slurm.until
SMALL = Path(__file__).parents[1] / "workers" / "small.py"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    if (why := slurm.missing()) is not None:
        pytest.skip(why)
    # A short path: it holds the name of a socket.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o711)  # other users' jobs talk to munge in it
    cluster = slurm.Cluster(folder, num_nodes=3)
    try:
        cluster.start()
    except (OSError, AssertionError, subprocess.SubprocessError) as error:
        logs = "".join(path.read_text()[-500:] for path in sorted(folder.glob("*.log")))
        cluster.stop()
        pytest.skip(f"Slurm cannot be started here: {error}\n{logs}")
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
    """Submits jobs in a folder of their own, and cancels what a test leaves."""

    cluster: Any
    folder: Path
    run: Any
    submitted: list[str] = field(default_factory=list)
    relaunch: str = slurm.RELAUNCH
    small: Path = SMALL

    def submit(self, *options: str, body: str) -> str:
        """Submit a batch script of one line; return the job's id."""
        script = self.folder / f"job-{len(self.submitted)}.sh"
        script.write_text(f"#!/bin/bash\n{body}\n")
        words = ("--open-mode=append", f"--output={self.folder}/out.txt", f"--chdir={self.folder}")
        job = self.cluster.ask("sbatch", "--parsable", *words, *options, str(script))
        self.submitted.append(job)
        return job

    def train(self, *options: str, relaunch: str = "", script: str = "", step: str = "exec") -> str:
        """Submit a run of the small script."""
        body = f"{step} {slurm.RELAUNCH} --run-dir {self.run.path} {relaunch} {SMALL} {script}"
        return self.submit(*options, body=body)

    def preempt(self, num_nodes: int, seconds: float = 1.0) -> str:
        """Submit a job that pushes out whoever is on the nodes."""
        words = (f"--nodes={num_nodes}", "--partition=high", "--exclusive", "--output=/dev/null")
        return self.submit(*words, body=f"sleep {seconds}")

    def agents(self) -> list[int]:
        """Return the processes of this test's agents."""
        found = []
        for pid in self.cluster.processes():
            words = proc_bytes(pid, "cmdline").split(b"\0")
            environ = proc_bytes(pid, "environ")
            is_step = b"SLURM_STEP_ID=0" in environ and b"RANK=" not in environ
            if is_step and b"--run-dir" in words and str(self.run.path).encode() in words:
                found.append(pid)
        return found

    @property
    def said(self) -> str:
        out = self.folder / "out.txt"
        return out.read_text() if out.exists() else ""

    def wait_for_step(self, step: int) -> None:
        self.until(lambda: self.run.last_step() >= step, f"step {step}")

    def wait_for_state(self, job: str, *states: str) -> None:
        self.until(lambda: self.cluster.facts(job).state in states, f"{job} to be {states}")

    def wait_for_requeue(self, job: str, restarts: int = 1) -> None:
        """Wait until the job waits in the queue again, and let it start soon.

        Not at once: within the second of the former start's end the node takes the new start's
        credential for a revoked one, and the job fails. That is what Slurm's own hold is for.
        """
        self.until(
            lambda: (
                self.cluster.facts(job).restarts >= restarts
                and self.cluster.facts(job).state != "COMPLETING"
            ),
            f"{job} to be requeued",
        )
        if self.cluster.facts(job).state == "PENDING":
            self.cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now+3")

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = 400.0) -> None:
        try:
            until(condition, what, timeout_s)
        except AssertionError as error:
            facts = [self.cluster.facts(job) for job in self.submitted]
            raise AssertionError(f"{error}\n{self.said}\n{facts}") from None


@pytest.fixture
def jobs(cluster: Any, tmp_path: Path, run: Any) -> Iterator[Jobs]:
    jobs = Jobs(cluster, tmp_path, run)
    yield jobs
    for job in jobs.submitted:
        cluster.ask("scancel", "--quiet", job)
    until(lambda: not cluster.ask("squeue", "-h", "-o", "%i"), "the jobs' end", 30)
