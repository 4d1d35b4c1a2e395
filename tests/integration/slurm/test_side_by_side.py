"""Several runs in one job, each started by an `srun relaunch` of its own."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.proc_files import proc_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SLOW = "--pause 0.1 --epochs 400 --patience 1000"


@pytest.fixture
def both(run: Any, tmp_path: Path) -> tuple[Any, Any]:
    """The two runs; the second takes some seconds to save."""
    return run, type(run)(tmp_path / "other")


def submit(jobs: Any, both: tuple[Any, Any], *options: str) -> str:
    body = ""
    for run, more in zip(both, ("", "--slow-save 2"), strict=True):
        words = f"--run-dir {run.path} {jobs.small} {SLOW} {more}"
        body += f"srun --nodes=1 --ntasks=1 --exact {jobs.relaunch} {words} &\n"
    job: str = jobs.submit("--nodes=2", "--ntasks=2", *options, body=f"{body}wait")
    for run in both:
        jobs.until(lambda run=run: run.last_step() >= 3, f"step 3 in {run.path}")
    return job


def test_all_have_saved_when_the_job_is_requeued(
    jobs: Any, cluster: Any, both: tuple[Any, Any]
) -> None:
    job = submit(jobs, both, "--exclusive")
    jobs.preempt(3)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    assert f"of job {job} is still running" in jobs.said
    assert jobs.said.count(f"put job {job} back into the queue") == 1
    for run in both:
        assert run.events("end")[0]["ending"] == "preempted"
        assert run.steps_on_disk()[0] == run.events("end")[0]["step"]
    for run in both:
        jobs.until(lambda run=run: len(run.events("start")) == 2, f"a second start in {run.path}")
        assert run.events("start")[1]["step"] == run.events("end")[0]["step"]


def notify(cluster: Any, run: Any) -> None:
    """Send a notice to the launcher of one of the runs, as a person on its node does."""
    for pid in cluster.processes():
        words = proc_bytes(pid, "cmdline").split(b"\0")
        environ = proc_bytes(pid, "environ")
        is_step = b"SLURM_STEP_ID=" in environ and b"\0RANK=" not in environ
        if is_step and str(run.path).encode() in words:
            os.kill(pid, signal.SIGUSR1)


def test_one_that_leaves_does_not_end_the_other(
    jobs: Any, cluster: Any, both: tuple[Any, Any]
) -> None:
    """A notice to one step: the job comes back when the other has left as well."""
    job = submit(jobs, both)
    notify(cluster, both[0])
    jobs.until(lambda: f"of job {job} is still running" in jobs.said, "the first to wait")
    step = both[1].last_step()
    jobs.until(lambda: both[1].last_step() > step + 3, "the other to train")
    assert cluster.facts(job).restarts == 0
    notify(cluster, both[1])
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    assert jobs.said.count(f"put job {job} back into the queue") == 1
    for run in both:
        assert run.steps_on_disk()[0] == run.events("end")[0]["step"]
