"""What Slurm says is read in the same way, whatever the user's or the site's profile sets."""

from pathlib import Path
from typing import Any

import pytest

from launcher.schedulers.slurm.scontrol import Scontrol

pytestmark = pytest.mark.timeout(1200)
STEERING = {
    "SLURM_TIME_FORMAT": ("relative", "%a %H:%M", "%s"),
    "SLURM_BITSTR_LEN": ("1",),
    "SLURM_CLUSTERS": ("elsewhere", "all"),
    "SLURM_DEBUG_FLAGS": ("Route,Protocol",),
    "SCONTROL_ALL": ("1",),
    "SCONTROL_FEDERATION": ("1",),
    "SCONTROL_FUTURE": ("1",),
    "SCONTROL_LOCAL": ("1",),
    "SCONTROL_SIBLING": ("1",),
    "SQUEUE_FORMAT": ("%i",),
    "SINFO_FORMAT": ("%N",),
    "TZ": ("Asia/Tokyo", "America/New_York"),
    "LC_ALL": ("de_DE.UTF-8",),
}
"""Those of the manual pages of 22.05 that change what scontrol, squeue and sinfo print."""
FREE = "sgdr lr=0.1 Restarts=5\n   JobState=FAILED Requeue=0\n   EndTime=1999-01-01T00:00:00"
PLAIN = """
import time
while True:
    print("at work", flush=True)
    time.sleep(0.2)
"""


def test_no_variable_and_no_free_text_changes_what_is_read(
    jobs: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.submit("--time=20", f"--job-name={FREE}", f"--comment={FREE}", body="sleep 300")
    jobs.wait_for_state(job, "RUNNING")
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.environ[name])
    known = Scontrol().job(job)
    assert known is not None
    assert (known.restarts, known.may_requeue, known.partition) == (0, True, "low")
    assert known.output == str(jobs.folder / "out.txt")
    assert known.end_time_s is not None
    assert Scontrol().site("low").grace_s is not None
    for name, values in STEERING.items():
        for value in values:
            with monkeypatch.context() as profile:
                profile.setenv(name, value)
                assert Scontrol().job(job) == known, (name, value)


@pytest.mark.slow
def test_a_preempted_job_comes_back_whatever_form_times_have(
    jobs: Any, cluster: Any, tmp_path: Path
) -> None:
    (tmp_path / "plain.py").write_text(PLAIN)
    body = f"export SLURM_TIME_FORMAT=relative\nexec {jobs.relaunch} --nproc-per-node 1 plain.py"
    job = jobs.submit("--nodes=1", "--exclusive", f"--job-name={FREE}", body=body)
    jobs.until(lambda: "at work" in jobs.said, "the script")
    jobs.preempt(3)
    jobs.wait_for_requeue(job)
    assert cluster.facts(job).restarts == 1
    assert f"preempted: put job {job} back into the queue" in jobs.said
