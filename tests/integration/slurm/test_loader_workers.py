"""Rows of the table in docs/slurm.md for runs whose data come from worker processes.

Slurm signals every process of a step, loader workers among them: they must outlive the notice, or
the rank loses its data before it has saved.
"""

import itertools
import time
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(1200)
SLOW = "--pause 0.1 --epochs 400 --patience 1000 --workers 2"
EVALUATION_S = 40
"""Of the first start: longer than the grace of the partition."""
BATCHES = 8
"""Those of an evaluation on one rank."""


def saved_and_whole(jobs: Any, run: Any, starts: int = 2) -> None:
    """Wait for the second start: no step is lost, none is done twice, and no worker has died."""
    jobs.until(lambda: len(run.events("start")) == starts, f"start {starts}")
    end, start = run.events("end")[-1], run.events("start")[-1]
    assert end["ending"] == "preempted"
    assert start["step"] == end["step"] == run.steps_on_disk()[0]
    jobs.until(lambda: run.last_step() > end["step"], "progress")
    steps = [record["step"] for record in run.records("metrics.jsonl")]
    assert [b - a for a, b in itertools.pairwise(steps)] == [1] * (len(steps) - 1)
    nobody_died(jobs, run)


def nobody_died(jobs: Any, run: Any) -> None:
    logs = [path.read_text() for path in run.path.glob("logs/**/*") if path.is_file()]
    for text in (jobs.said, *logs):
        assert "exited unexpectedly" not in text
        assert "Traceback" not in text


def test_preempted_with_grace(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--nodes=1", "--exclusive", script=SLOW)
    jobs.wait_for_step(6)
    jobs.preempt(3)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    saved_and_whole(jobs, run)


@pytest.mark.slow
def test_the_time_limit(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--nodes=1", "--time=1", script=SLOW)
    jobs.until(lambda: run.events("end"), "the run to leave by itself")
    # Which of the two depends on whether an evaluation would have been next.
    reason = run.events("end")[0]["reason"]
    assert reason.startswith(("the time limit comes in", "the time limit comes before the end of"))
    jobs.wait_for_requeue(job)
    saved_and_whole(jobs, run)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--signal=TERM",), ("--full", "--signal=TERM")])
def test_a_signal_by_a_person(jobs: Any, cluster: Any, run: Any, words: tuple[str, ...]) -> None:
    """To the steps, and with --full to the batch script and its children as well."""
    job = jobs.train("--nodes=1", "--exclusive", script=SLOW)
    jobs.wait_for_step(6)
    cluster.ask("scancel", *words, job)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    saved_and_whole(jobs, run)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--full",)])
def test_cancelled(jobs: Any, cluster: Any, run: Any, words: tuple[str, ...]) -> None:
    job = jobs.train("--nodes=1", "--exclusive", script=SLOW)
    jobs.wait_for_step(6)
    cluster.ask("scancel", *words, job)
    jobs.wait_for_state(job, "CANCELLED")
    jobs.until(lambda: run.events("end"), "the run's last word")
    end = run.events("end")[0]
    assert cluster.facts(job).restarts == 0
    # The last step's record may be owed: it comes with the evaluation that was broken off.
    assert run.steps_on_disk()[0] == end["step"] >= run.last_step() >= end["step"] - 1
    nobody_died(jobs, run)


@pytest.mark.slow
def test_preempted_in_an_evaluation_longer_than_the_grace(
    jobs: Any, cluster: Any, run: Any
) -> None:
    """It is broken off, and done again by the next start: once in the records, with its step."""
    slow = f"--slow-evaluation $(( ${{SLURM_RESTART_COUNT:-0}} ? 0 : {EVALUATION_S // BATCHES} ))"
    job = jobs.train("--nodes=1", "--exclusive", script=f"{SLOW} {slow}")
    # A step's record comes with the next boundary: that of step 2 waits for the evaluation.
    jobs.wait_for_step(1)
    time.sleep(3)
    assert not run.events("end")
    jobs.preempt(3)
    jobs.wait_for_requeue(job)
    saved_and_whole(jobs, run)
    jobs.until(lambda: run.last_step() >= 9, "three evaluations")
    evaluated = [r["step"] for r in run.records("metrics.jsonl") if "val/loss" in r]
    assert evaluated[:3] == [3, 6, 9]
