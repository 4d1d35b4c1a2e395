"""`relaunch doctor` in a batch job: ranks on all its nodes, and the partition's times."""

import json
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(1200)


def test_all_nodes_of_a_job_are_looked_at(jobs: Any, tmp_path: Any) -> None:
    words = f"--run-dir {tmp_path}/runs --nproc-per-node 1 --save-size 1MB --json"
    body = f"{jobs.relaunch} doctor {words}"
    job = jobs.submit("--nodes=2", "--ntasks-per-node=1", "--time=30", body=body)
    jobs.wait_for_state(job, "COMPLETED", "FAILED")
    document = json.loads(next(line for line in jobs.said.splitlines() if line[:1] == "{"))
    found = {one["name"]: one for one in document["findings"]}
    assert found["all-reduce"]["text"].startswith("2 ranks with gloo"), jobs.said
    assert found["versions"]["level"] == "ok"
    assert found["time limit"]["text"].endswith("s left")
    assert "from the notice to the kill" in found["preemption"]["text"]
    assert not (tmp_path / "runs").exists()
