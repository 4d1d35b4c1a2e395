"""A person without any rights of root's: may he requeue his own job and lift its hold?"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

slurm = sys.modules["slurm_cluster"]  # loaded by conftest.py
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
USER = "nobody"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user can reach and write; pytest's own are closed to him.

    Asked for before `jobs`, so that it goes after the job.
    """
    folder = Path(tempfile.mkdtemp(prefix="user-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def inside(folder: Path) -> tuple[str, ...]:
    """What goes before a command, so that the user can reach this Python: see there."""
    scratch = folder / "open"
    scratch.mkdir()
    found: tuple[str, ...] = slurm.with_open_folders(scratch)
    return found


@pytest.fixture
def nodes(cluster: Any, as_user: Any, inside: tuple[str, ...]) -> Iterator[None]:
    """The nodes' daemons, which start the user's job. Asked for before `jobs`: it ends after."""

    def start_all(*words: str) -> None:
        for name in cluster.nodes if inside else ():
            cluster.stop_daemon(name)
            cluster.start_node(name, words)
        number = str(len(cluster.nodes))
        slurm.until(lambda: cluster.ask("sinfo", "-h", "-t", "idle", "-o", "%D") == number, "nodes")

    start_all(*inside)
    yield
    start_all()


@pytest.fixture
def as_user(cluster: Any, folder: Path, inside: tuple[str, ...]) -> Any:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; the tests run as a plain one anyway")
    try:
        group = pwd.getpwnam(USER).pw_gid
    except KeyError:
        pytest.skip(f"there is no user {USER}")

    become = ("setpriv", "--reuid", USER, "--regid", str(group), "--clear-groups")

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            (*inside, *become, *words),
            cwd=folder,
            env={**cluster.environ, "HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=200,
        )

    try:
        tried = run(sys.executable, "-c", "import launcher, torch")
    except OSError as error:
        pytest.skip(f"no {error.filename} here, to become {USER}")
    if tried.returncode:
        pytest.skip(f"{USER} cannot use this installation: {tried.stderr[-200:]}")
    return run


def test_his_preempted_job_is_requeued_by_his_own_order(
    folder: Path, nodes: None, jobs: Any, cluster: Any, as_user: Any
) -> None:
    run = type(jobs.run)(folder / "run")
    script = folder / "job.sh"
    script.write_text(
        "#!/bin/bash\n#SBATCH --nodes=1 --exclusive --open-mode=append --output=out.txt\n"
        f"exec {jobs.relaunch} --run-dir run {jobs.small} --pause 0.1 --epochs 400 "
        "--patience 1000\n"
    )
    submitted = as_user("sbatch", "--parsable", str(script))
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    jobs.submitted.append(job)
    jobs.until(lambda: run.last_step() >= 3, "step 3")
    assert (folder / "run").stat().st_uid == pwd.getpwnam(USER).pw_uid
    jobs.preempt(3)
    jobs.until(lambda: cluster.facts(job).restarts == 1, "the requeue")
    said = folder / "out.txt"
    jobs.until(lambda: "back into the queue" in said.read_text(), "the last sentence")
    assert f"put job {job} back into the queue; it may start 10 s from now" in said.read_text()
    jobs.until(lambda: len(run.events("start")) == 2, "the second start")
    assert run.events("start")[1]["step"] == run.events("end")[0]["step"]
