"""Shells that have a job's variables: salloc's, one of a step, and one that kept them."""

import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(1200)
PRINTS = """
import os
names = ("RANK", "WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR")
print(*(os.environ[name] for name in names), flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "prints.py"
    path.write_text(PRINTS)
    return path


def in_shell(
    words: str, *, cwd: Path, environ: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        words, shell=True, cwd=cwd, env=environ, capture_output=True, text=True, timeout=200
    )


@pytest.mark.parametrize("step", ["", "srun --ntasks-per-node=1"], ids=["alone", "srun"])
def test_in_an_allocation_no_options_are_needed(
    jobs: Any, cluster: Any, script: Path, tmp_path: Path, step: str
) -> None:
    words = f"salloc --quiet --nodes=2 --exclusive {step} {jobs.relaunch} {script}"
    done = in_shell(words, cwd=tmp_path, environ=cluster.environ)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["0 2 0 127.0.0.1", "1 2 1 127.0.0.1"]


def test_a_shell_of_a_step_is_one_of_its_tasks(
    jobs: Any, cluster: Any, script: Path, tmp_path: Path
) -> None:
    inner = shlex.quote(f"{jobs.relaunch} {script}")
    words = f"srun --nodes=1 --quiet bash -c {inner}"
    done = in_shell(words, cwd=tmp_path, environ=cluster.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0 1 0 127.0.0.1\n"


@pytest.mark.parametrize("known", [True, False])
def test_variables_that_are_left_over_on_a_node_are_refused(
    jobs: Any, cluster: Any, script: Path, tmp_path: Path, known: bool
) -> None:
    """The job ran here, and its variables were kept: by name this shell would be in it."""
    job = "99999"
    if known:
        job = jobs.submit("--nodes=1", body="true")
        jobs.wait_for_state(job, "COMPLETED")
    host = socket.gethostname().partition(".")[0]
    environ = {**cluster.environ, "SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": host}
    done = in_shell(f"{jobs.relaunch} {script}", cwd=tmp_path, environ=environ)
    why = "the job is COMPLETED" if known else "Slurm says: slurm_load_jobs error: Invalid job id"
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"relaunch: error: SLURM_JOB_ID={job} is left over in this shell: {why}"
    )
    assert f"env -u SLURM_JOB_ID relaunch {script}" in done.stderr


@pytest.mark.slow
def test_a_preempted_allocation_saves_and_tells_how_to_go_on(
    jobs: Any, cluster: Any, run: Any, tmp_path: Path
) -> None:
    words = f"--run-dir {run.path} {jobs.small} --pause 0.1 --epochs 400 --patience 1000"
    with (tmp_path / "out.txt").open("wb") as out:
        shell = subprocess.Popen(
            f"salloc --quiet --nodes=1 --exclusive {jobs.relaunch} {words}",
            shell=True,
            cwd=tmp_path,
            env=cluster.environ,
            stdout=out,
            stderr=out,
        )
    jobs.wait_for_step(3)
    jobs.preempt(3)
    assert shell.wait(timeout=150) == 75, jobs.said
    assert run.steps_on_disk()[0] == run.events("end")[0]["step"]
    assert "preempted, and an interactive job cannot be requeued." in jobs.said
    assert "start the same command again, in a new allocation." in jobs.said
