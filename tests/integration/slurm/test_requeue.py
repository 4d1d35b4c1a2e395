"""What ends a job, and what becomes of it: one test a row of the table in docs/slurm.md."""

from typing import Any

import pytest

pytestmark = pytest.mark.timeout(180)
SLOW = "--pause 0.1 --epochs 20"


def test_preempted_with_grace_on_two_nodes(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--nodes=2", "--exclusive", script=SLOW)
    jobs.wait_for_step(6)
    jobs.preempt(3)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    assert "put job" in jobs.said
    end = run.events("end")[0]
    assert end["ending"] == "preempted"
    assert run.steps_on_disk()[0] == end["step"]
    jobs.until(lambda: len(run.events("start")) == 2, "the second start")
    start = run.events("start")[1]
    assert start["step"] == end["step"]
    assert start["world_size"] == 2
    jobs.until(lambda: run.last_step() > end["step"] + 2, "progress")


def test_cancelled_stays_cancelled(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--nodes=1", script=SLOW)
    jobs.wait_for_step(3)
    cluster.ask("scancel", job)
    jobs.wait_for_state(job, "CANCELLED")
    assert cluster.facts(job).restarts == 0
    assert "the job was cancelled and stays so" in jobs.said
    end = run.events("end")[0]
    assert run.steps_on_disk()[0] == end["step"]


def test_a_crash_fails_with_the_ranks_code(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--nodes=2", script="--fail-at 4")
    jobs.wait_for_state(job, "FAILED")
    assert cluster.exit_code(job) == "1:0"
    assert cluster.facts(job).restarts == 0
    assert "the user's own mistake" in jobs.said
