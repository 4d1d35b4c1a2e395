"""Rows that take their time: a minute's limit, a lost node, fewer nodes than before."""

import signal
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SLOW = "--pause 0.1 --epochs 400 --patience 1000"


def test_the_time_limit_without_any_warning(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--nodes=1", "--time=1", script=SLOW)
    jobs.until(lambda: run.events("end"), "the run to leave by itself")
    end = run.events("end")[0]
    # Which of the two depends on whether an evaluation would have been next.
    assert end["reason"].startswith(
        ("the time limit comes in", "the time limit comes before the end of")
    )
    assert run.steps_on_disk()[0] == end["step"]
    jobs.wait_for_requeue(job)
    jobs.until(lambda: len(run.events("start")) == 2, "the second start")
    assert run.events("start")[1]["step"] == end["step"]


def test_fewer_nodes_than_before(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--nodes=2", "--exclusive", script=SLOW)
    jobs.wait_for_step(4)
    blocker = jobs.preempt(3, seconds=30)
    jobs.until(lambda: cluster.facts(job).state == "PENDING", "the requeue")
    cluster.ask("scontrol", "update", f"JobId={job}", "NumNodes=1", "StartTime=now+3")
    cluster.ask("scancel", blocker)
    jobs.until(lambda: len(run.events("start")) == 2, "the second start")
    start, end = run.events("start")[1], run.events("end")[0]
    assert (start["step"], start["world_size"]) == (end["step"], 1)


def test_a_killed_node_daemon(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--nodes=2", "--exclusive", script=SLOW)
    jobs.wait_for_step(4)
    lost = cluster.ask("squeue", "-h", "-j", job, "-o", "%N")
    name = "n1" if "1" in lost else "n0"
    cluster.stop_daemon(name, signal.SIGKILL)
    try:
        jobs.until(lambda: cluster.facts(job).restarts == 1, "the requeue")
    finally:
        cluster.start_node(name)
    jobs.wait_for_requeue(job)
    jobs.until(lambda: len(run.events("start")) == 2, "the second start")
    assert run.events("start")[1]["step"] >= 4


def test_a_loop_without_progress_ends(jobs: Any, cluster: Any, run: Any) -> None:
    """Asked to leave at its first step, every time; nothing is on disk when it leaves."""
    line = f"exec {jobs.relaunch} --run-dir {run.path} asks.py"
    (jobs.folder / "asks.py").write_text("from launcher import Run\nraise SystemExit(75)\n")
    job = jobs.submit("--nodes=1", body=line)
    for restart in range(1, 5):
        jobs.wait_for_requeue(job, restart)
    jobs.wait_for_state(job, "FAILED")
    assert cluster.exit_code(job) == "93:0"
    assert "the job was started 5 times at step 0 and made no progress" in jobs.said


def test_a_limit_that_is_raised_is_seen(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--nodes=2", "--time=2", script=SLOW)
    jobs.wait_for_step(3)
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=20")
    jobs.until(lambda: "moved the end of the job's time" in jobs.said, "the new limit")
    jobs.until(lambda: run.last_step() > 3 and "deadline in 1" in jobs.said, "the new deadline")
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    jobs.wait_for_requeue(job)
    assert "earlier than before" in jobs.said
    assert run.steps_on_disk()[0] == run.events("end")[0]["step"]
