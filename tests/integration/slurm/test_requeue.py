"""What ends a job, and what becomes of it: one test a row of the table in docs/slurm.md."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(1200)
SMALL = Path(__file__).parents[1] / "workers" / "small.py"
SLOW = "--pause 0.1 --epochs 400 --patience 1000"
"""It would take minutes: whatever ends it, it is not its own end."""


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
    jobs.until(lambda: run.last_step() > end["step"], "progress")


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
    assert cluster.exit_code(job) == "1:0", jobs.said
    assert cluster.facts(job).restarts == 0
    assert "the user's own mistake" in jobs.said


@pytest.mark.slow
def test_preempted_without_grace_is_left_to_slurm(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--partition=low0", "--exclusive", "--nodes=1", script=SLOW)
    jobs.wait_for_step(3)
    jobs.preempt(3)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    assert "Slurm has put the job back into the queue by itself" in jobs.said
    end = run.events("end")[0]
    assert run.steps_on_disk()[0] == end["step"]
    jobs.until(lambda: len(run.events("start")) == 2, "the second start")
    assert run.events("start")[1]["step"] == end["step"]


@pytest.mark.slow
def test_cancelled_during_a_save_stays_cancelled(jobs: Any, cluster: Any, run: Any) -> None:
    """The ranks are asked to leave, save, and meanwhile a person cancels the job."""
    job = jobs.train("--nodes=1", "--exclusive", script=f"{SLOW} --slow-save 2")
    jobs.wait_for_step(3)
    jobs.preempt(3)
    jobs.until(lambda: "asking the rank to save" in jobs.said, "the warning")
    cluster.ask("scancel", job)
    jobs.wait_for_state(job, "CANCELLED")
    assert cluster.facts(job).restarts == 0
    assert "put job" not in jobs.said


@pytest.mark.slow
def test_someone_elses_requeue_is_not_doubled(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--nodes=1", script=SLOW)
    jobs.wait_for_step(3)
    cluster.ask("scontrol", "requeue", job)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    assert "Slurm has put the job back into the queue by itself" in jobs.said


@pytest.mark.slow
@pytest.mark.parametrize("to", ["", "B:"])
def test_the_warning_of_signal(jobs: Any, cluster: Any, run: Any, to: str) -> None:
    """It comes up to a minute early, and long before the run's own look at the time limit."""
    job = jobs.train("--nodes=1", "--time=5", f"--signal={to}USR1@210", script=SLOW)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    assert "relaunch: SIGUSR1: asking the rank to save and exit" in jobs.said
    assert run.events("end")[0]["ending"] == "preempted"


def test_an_element_of_an_array_is_requeued_by_its_own_name(
    jobs: Any, cluster: Any, run: Any
) -> None:
    array = jobs.train("--nodes=1", "--array=3-3", script=SLOW)
    jobs.wait_for_step(3)
    cluster.ask("scancel", "--signal=USR1", f"{array}_3")
    jobs.wait_for_requeue(f"{array}_3")
    assert f"put job {array}_3 back into the queue" in jobs.said
    assert cluster.facts(f"{array}_3").restarts == 1


def test_a_notice_before_the_ranks_are_started(jobs: Any, cluster: Any, run: Any) -> None:
    """The agents are there, and import torch."""
    job = jobs.train("--nodes=1", script=SLOW)
    jobs.until(jobs.agents, "the agents")
    cluster.ask("scancel", "--signal=USR1", job)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    jobs.wait_for_step(3)


@pytest.mark.slow
def test_the_controller_is_down_at_the_warning(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--nodes=1", script=SLOW)
    jobs.wait_for_step(3)
    cluster.stop_daemon("slurmctld")
    for pid in jobs.agents():
        os.kill(pid, signal.SIGUSR1)
    jobs.until(lambda: "Trying again for at most" in jobs.said, "the first question")
    cluster.start_controller()
    jobs.wait_for_requeue(job)
    assert run.steps_on_disk()[0] == run.events("end")[0]["step"]
    assert cluster.facts(job).restarts == 1


@pytest.mark.slow
@pytest.mark.parametrize("step", ["srun", "srun --kill-on-bad-exit=1"])
def test_srun_relaunch_without_anything_outside(
    jobs: Any, cluster: Any, run: Any, step: str
) -> None:
    """Where srun ends the step at the first exit, the first agent still has KillWait to ask."""
    words = ("--nodes=2", "--ntasks-per-node=1", "--exclusive")
    job = jobs.train(*words, step=step, script=SLOW)
    jobs.wait_for_step(3)
    jobs.preempt(3)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    assert f"put job {job} back into the queue" in jobs.said
    assert run.steps_on_disk()[0] == run.events("end")[0]["step"]


@pytest.mark.slow
def test_srun_with_words_that_say_how_the_nodes_meet(jobs: Any, cluster: Any, run: Any) -> None:
    """As batch scripts for torchrun have it, with that word replaced."""
    meet = (
        "--nnodes=$SLURM_NNODES --nproc_per_node=1 --rdzv_id=$SLURM_JOB_ID --rdzv_backend=c10d "
        "--rdzv_conf=is_host=$(((SLURM_NODEID)) && echo 0 || echo 1) "
        "--rdzv_endpoint=127.0.0.1:$((29000 + SLURM_JOB_ID % 1000))"
    )
    (jobs.folder / "agent.sh").write_text(
        f"exec {jobs.relaunch} {meet} --run-dir {run.path} {SMALL} {SLOW}\n"
    )
    words = ("--nodes=2", "--ntasks-per-node=1", "--exclusive")
    job = jobs.submit(*words, body=f"srun -u bash {jobs.folder / 'agent.sh'}")
    jobs.wait_for_step(3)
    jobs.preempt(3)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    assert f"put job {job} back into the queue" in jobs.said
    assert "\x1b[K" not in jobs.said
    assert run.steps_on_disk()[0] == run.events("end")[0]["step"]


@pytest.mark.slow
def test_a_batch_script_that_says_standalone(jobs: Any, cluster: Any, run: Any) -> None:
    job = jobs.train("--nodes=1", relaunch="--standalone", script=SLOW)
    jobs.wait_for_step(3)
    # A preemption is told to steps; a script without one hears of it when the grace is over.
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    assert f"put job {job} back into the queue" in jobs.said
    assert run.steps_on_disk()[0] == run.events("end")[0]["step"]


@pytest.mark.slow
def test_without_scontrol_the_job_stays_until_slurm_requeues_it(
    jobs: Any, cluster: Any, run: Any
) -> None:
    """As in a container: srun can be called and scontrol cannot."""
    folder = jobs.folder / "bin"
    folder.mkdir()
    for name in ("srun", "git"):
        if (found := shutil.which(name)) is not None:
            (folder / name).symlink_to(found)
    job = jobs.train("--nodes=1", "--exclusive", step=f"PATH={folder} exec", script=SLOW)
    jobs.wait_for_step(3)
    jobs.preempt(3)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    assert "asking Slurm why the job ends: there is no scontrol here." in jobs.said
    assert f"continue by hand: scontrol requeue {job}" in jobs.said
    assert run.steps_on_disk()[0] == run.events("end")[0]["step"]


@pytest.mark.slow
def test_a_run_that_names_its_own_folder_gets_on_there(jobs: Any, cluster: Any) -> None:
    """Without --run-dir the batch step can only guess where that is, and must not call it stuck."""
    folder = jobs.folder / "chosen"
    (jobs.folder / "own.py").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(SMALL.parent)!r})\n"
        "import small\n"
        "from launcher import Run\n"
        f"Run.start(small.main, run_dir={str(folder)!r})\n"
    )
    job = jobs.submit("--nodes=1", body=f"exec {jobs.relaunch} own.py {SLOW}")
    run = type(jobs.run)(folder)
    jobs.until(lambda: run.last_step() >= 6, "step 6")
    cluster.ask("scancel", "--signal=USR1", job)
    jobs.wait_for_requeue(job)
    record = type(jobs.run)(jobs.folder / "runs" / "own")
    assert record.events("run folder")[0]["path"] == str(folder)
    assert record.events("requeue")[0]["step"] == run.events("end")[0]["step"]
    assert run.events("attempt")[0]["code"] == 75


@pytest.mark.slow
def test_a_finished_run_leaves_at_once(jobs: Any, cluster: Any, run: Any) -> None:
    for _ in range(2):
        job = jobs.train("--nodes=1", script="--epochs 1")
        jobs.wait_for_state(job, "COMPLETED")
    assert "this run had finished already: completed, all 3 steps are done" in jobs.said
    assert len(run.events("end")) == 1


def test_a_heterogeneous_job_is_refused(jobs: Any, cluster: Any) -> None:
    job = jobs.submit("--nodes=1", body=f"#SBATCH hetjob\nexec {jobs.relaunch} {SMALL}")
    jobs.wait_for_state(job, "FAILED")
    assert "is heterogeneous (2 components), and a run needs nodes of one kind." in jobs.said


@pytest.mark.parametrize(
    ("options", "body", "sentence"),
    [
        (("--ntasks-per-node=2",), "exec", "#SBATCH --nodes=1 --ntasks-per-node=1"),
        (("--ntasks=2", "--nodes=1"), "srun", "srun --nodes=1 --ntasks-per-node=1 relaunch"),
        (("--nodes=2",), "exec", "--nnodes 3, but job"),
        (("--nodes=1",), "srun --ntasks=8 --overcommit", "has 8 tasks on a node, but"),
    ],
)
def test_a_wrong_layout_is_refused(
    jobs: Any, cluster: Any, options: tuple[str, ...], body: str, sentence: str
) -> None:
    relaunch = "--nnodes 3" if "--nodes=2" in options else ""
    job = jobs.train(*options, step=body, relaunch=relaunch)
    jobs.wait_for_state(job, "FAILED")
    assert cluster.exit_code(job) == "2:0"
    assert jobs.said.count(sentence) == 1
