"""What the batch step gives to its agents: a secret, a container, the order of the nodes."""

import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(1200)
STUB = """\
#!/bin/sh
# As a container's command: an option, an image, and what is to run inside.
echo "$1 $2 $RELAUNCH_SECRET" >> {record}
shift 2
exec "$@"
"""
PRINTS = """
import os
print(*(os.environ[name] for name in ("RANK", "WORLD_SIZE", "SLURMD_NODENAME")),
      [name for name in os.environ if name == "RELAUNCH_SECRET"], flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "prints.py"
    path.write_text(PRINTS)
    return path


def test_agents_in_containers_share_a_secret_that_no_rank_gets(
    jobs: Any, script: Path, tmp_path: Path
) -> None:
    inside = tmp_path / "relaunch"
    inside.write_text(f"#!{sys.executable}\nfrom launcher.cli import main\nmain()\n")
    stub, record = tmp_path / "stub", tmp_path / "record"
    stub.write_text(STUB.format(record=record))
    for program in (inside, stub):
        program.chmod(0o755)
    words = f'--container "{stub} --nv image.sif" --nproc-per-node 1 {script}'
    body = f"export PATH={tmp_path}:$PATH\nexec {jobs.relaunch} {words}"
    job = jobs.submit("--nodes=2", "--ntasks-per-node=1", body=body)
    jobs.wait_for_state(job, "COMPLETED", "FAILED")
    ranks = [line for line in jobs.said.splitlines() if not line.startswith("relaunch: ")]
    assert sorted(ranks) == ["0 2 n0 []", "1 2 n1 []"]
    assert "share no secret" not in jobs.said
    seen = [line.split() for line in record.read_text().splitlines()]
    assert [words[:2] for words in seen] == [["--nv", "image.sif"]] * 2
    assert seen[0] == seen[1]
    assert len(seen[0][2]) >= 32
    assert seen[0][2] not in jobs.said


@pytest.mark.slow
@pytest.mark.parametrize("step", ["exec", "srun --ntasks-per-node=1"])
def test_ranks_are_in_the_order_of_a_hostfile(
    jobs: Any, script: Path, tmp_path: Path, step: str
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("n1\nn0\n")
    words = ("--nodes=2", "--ntasks-per-node=1", "--nodelist=n0,n1")
    body = f"export SLURM_HOSTFILE={hosts}\n{step} {jobs.relaunch} --nproc-per-node 1 {script}"
    job = jobs.submit(*words, body=body)
    jobs.wait_for_state(job, "COMPLETED", "FAILED")
    ranks = [line for line in jobs.said.splitlines() if not line.startswith("relaunch: ")]
    assert sorted(ranks) == ["0 2 n1 []", "1 2 n0 []"]
