"""What ends a job, and what becomes of it: one test a row of the table in docs/grid_engine.md."""

import subprocess
from typing import Any

import pytest

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]
SLOW = "--pause 0.2 --epochs 400 --patience 1000"
"""It would take minutes: whatever ends it, it is not its own end."""


def test_a_suspended_job_on_two_nodes_saves_and_comes_back(
    jobs: Any, cluster: Any, run: Any
) -> None:
    job = jobs.train("-notify", "-pe", "relaunch", "2", script=SLOW)
    jobs.wait_for_step(3)
    cluster.ask("qmod", "-sj", job)
    jobs.wait_for_starts(2)
    assert "suspension of the job, or its s_rt: the ranks have 30 s" in jobs.said
    assert f"exit code 99: Grid Engine puts job {job} back into the queue" in jobs.said
    end, (_, again) = run.events("end")[0], run.events("start")
    assert end["ending"] == "preempted"
    assert (again["step"], again["world_size"], again["lost_steps"]) == (end["step"], 2, 0)


def test_a_rescheduled_job_saves_and_comes_back_once(jobs: Any, cluster: Any, run: Any) -> None:
    """Its new start may come before the old one has saved, and waits for the run folder's lock."""
    job = jobs.train("-notify", "-r", "y", script=SLOW)
    jobs.wait_for_step(3)
    cluster.ask("qmod", "-rj", job)
    jobs.wait_for_starts(2)
    assert run.events("end")[0]["ending"] == "preempted"
    assert run.events("start")[1]["step"] == run.events("end")[0]["step"]
    assert len(run.events("start")) == 2


def test_a_deleted_job_saves_and_stays_away(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("-notify", "-pe", "relaunch", "2", script=SLOW)
    jobs.wait_for_step(3)
    cluster.ask("qdel", job)
    jobs.wait_for_end(job)
    jobs.until(lambda: not cluster.processes(), "the last process")
    assert run.events("end")[0]["ending"] == "preempted"
    assert run.steps_on_disk()[0] == run.events("end")[0]["step"]
    assert cluster.state(job) == ""


def test_a_job_that_is_killed_without_a_notice_resumes_from_its_newest_checkpoint(
    jobs: Any, cluster: Any, run: Any
) -> None:
    job = jobs.train("-pe", "relaunch", "2", script=SLOW)
    jobs.until(run.steps_on_disk, "a checkpoint")
    assert "submitted without -notify" in jobs.said
    cluster.ask("qdel", job)
    jobs.wait_for_end(job)
    jobs.until(lambda: not cluster.processes(), "the last process")
    assert run.events("end") == []
    jobs.train("-notify", script=SLOW)
    jobs.wait_for_starts(2)
    assert run.events("start")[1]["step"] >= 5


def test_a_finished_job_is_gone(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("-notify", "-pe", "relaunch", "3", script="--epochs 1")
    jobs.wait_for_end(job)
    assert "finished at step 3" in jobs.said
    assert run.events("start")[0]["world_size"] == 3
    assert [e["ending"] for e in run.events("end")] == ["completed"]


def test_a_crash_ends_the_job(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("-notify", "-pe", "relaunch", "2", script="--fail-at 4")
    jobs.wait_for_end(job)
    assert "the user's own mistake" in jobs.said
    assert len(run.events("start")) == 1
    with pytest.raises(subprocess.SubprocessError):
        cluster.ask("qstat", "-j", job)


@pytest.mark.parametrize(("limit", "comes_back"), [("s_rt", True), ("h_rt", False)])
def test_a_time_limit(jobs: Any, cluster: Any, limit: str, comes_back: bool) -> None:
    """What Grid Engine makes of exit code 99 then, whoever exits with it."""
    record = jobs.folder / "record"
    body = (
        f"echo start $RESTARTED >> {record}; [ $RESTARTED = 1 ] && exit 0\n"
        f"trap 'echo notice >> {record}; exit 99' USR1 USR2\n"
        "for second in $(seq 60); do sleep 1; done"
    )
    job = jobs.submit("-notify", "-l", f"{limit}=3", body=body)
    jobs.wait_for_end(job)
    lines = record.read_text().split("\n")[:-1]
    assert lines == ["start 0", "notice", *(["start 1"] if comes_back else [])]


def test_a_host_that_lets_no_agent_in_is_named(jobs: Any, cluster: Any) -> None:
    """Its parallel environment does not let the job start tasks."""
    (jobs.folder / "train.py").write_text("print('never')\n")
    body = f"exec {jobs.relaunch} --nproc-per-node 1 train.py"
    job = jobs.submit("-notify", "-pe", "closed", "2", body=body)
    jobs.wait_for_end(job)
    assert "The parallel environment of the job needs `control_slaves TRUE`" in jobs.said
    assert "never" not in jobs.said
