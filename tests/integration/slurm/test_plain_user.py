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
def as_user(cluster: Any, folder: Path) -> Any:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; the tests run as a plain one anyway")
    try:
        group = pwd.getpwnam(USER).pw_gid
    except KeyError:
        pytest.skip(f"there is no user {USER}")

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words,
            user=USER,
            group=group,
            extra_groups=[],
            cwd=folder,
            env={**cluster.environ, "HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    try:
        tried = run(sys.executable, "-c", "import launcher, torch")
    except OSError as error:
        pytest.skip(f"{USER} cannot start {sys.executable}: {error.strerror}")
    if tried.returncode:
        pytest.skip(f"{USER} cannot use this installation: {tried.stderr[-200:]}")
    return run


def test_his_preempted_job_is_requeued_by_his_own_order(
    folder: Path, jobs: Any, cluster: Any, as_user: Any
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
