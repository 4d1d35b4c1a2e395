"""`relaunch slurm`: what is submitted, and what is said where that cannot be."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(1200)
SMALL = Path(__file__).parents[1] / "workers" / "small.py"
COMMAND = (sys.executable, "-c", "from launcher.cli import main; main()", "slurm")


@pytest.fixture
def submit(cluster: Any, tmp_path: Path) -> Any:
    def run(*words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, *words],
            cwd=tmp_path,
            env={**cluster.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_an_unknown_partition_is_told_in_slurms_words_once(submit: Any) -> None:
    done = submit("--partition=nowhere", str(SMALL))
    assert done.returncode == 2
    assert done.stderr == (
        "relaunch: error: sbatch refuses: invalid partition specified: nowhere; "
        "Batch job submission failed: Invalid partition name specified.\n"
    )


def test_a_job_that_would_wait_for_ever_is_told(submit: Any, cluster: Any) -> None:
    done = submit("--nodes=99", str(SMALL))
    cluster.ask("scancel", done.stderr.split("submitted job ")[1].split(":")[0])
    assert done.returncode == 0
    assert "does not start it as it is (Reason=PartitionConfig)" in done.stderr


def test_without_sbatch_there_is_a_sentence(submit: Any, tmp_path: Path) -> None:
    done = submit(str(SMALL), PATH="/nonexistent")
    assert done.returncode == 1
    assert "relaunch slurm needs sbatch, which is not installed here" in done.stderr
    assert f"sbatch {Path('runs/small/job.sh')}" in done.stderr


def test_a_script_that_is_not_there_is_not_submitted(submit: Any, tmp_path: Path) -> None:
    done = submit("nothing.py")
    assert done.returncode == 2
    assert "nothing.py" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_left_over_variables_are_refused(submit: Any, cluster: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND[:3], str(SMALL)],
        cwd=tmp_path,
        env={**cluster.environ, "SLURM_JOB_ID": "99999", "SLURM_JOB_NODELIST": "elsewhere7"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "SLURM_JOB_ID=99999 is left over in this shell" in done.stderr
    assert f"env -u SLURM_JOB_ID relaunch {SMALL}" in done.stderr


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """The command as sbatch's shell finds it: a file of that name."""
    path = tmp_path / "relaunch"
    path.write_text(f"#!{sys.executable}\nfrom launcher.cli import main\nmain()\n")
    path.chmod(0o755)
    return path


def test_blanks_in_names_reach_the_job(
    command: Path, cluster: Any, jobs: Any, tmp_path: Path
) -> None:
    script = tmp_path / "my train.py"
    script.write_text("import os, sys\nprint(os.environ['SLURM_JOB_NAME'], sys.argv[1:])\n")
    words = ("--nodes=1", "-o", "my out.txt", "--comment=it's #1", "--run-dir", "my run")
    done = subprocess.run(
        [str(command), "slurm", *words, script.name, "two words"],
        cwd=tmp_path,
        env=cluster.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    job = said[0].split()[3].rstrip(":")
    jobs.submitted.append(job)
    assert said[1] == f"relaunch: follow it:  tail -F '{tmp_path / 'my out.txt'}'"
    jobs.wait_for_state(job, "COMPLETED")
    assert "my train ['two words']\n" in (tmp_path / "my out.txt").read_text()


@pytest.mark.slow
def test_the_job_runs(command: Path, cluster: Any, jobs: Any, run: Any) -> None:
    words = ("--nodes=1", "-o", "out.txt", "--run-dir", str(run.path), str(SMALL), "--epochs", "1")
    done = subprocess.run(
        [str(command), "slurm", *words],
        cwd=run.path.parent,
        env={**cluster.environ, "SLURM_JOB_ID": "1", "SBATCH_PARTITION": "nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    job = said[0].split()[3].rstrip(":")
    jobs.submitted.append(job)
    assert said[0].endswith(str(run.path / "job.sh"))
    assert said[1] == f"relaunch: follow it:  tail -F {run.path.parent / 'out.txt'}"
    jobs.wait_for_state(job, "COMPLETED")
    assert run.events("end")[0]["ending"] == "completed"
