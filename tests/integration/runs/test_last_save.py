"""The last save of a finished run fails: it is tried again, and what is not saved is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from checkpointing import CheckpointStore

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
from launcher import Run
from launcher.training.saving import save_at_boundary
from launcher.training.reporting.save_log import SaveLog
from linear_run import prepare, train, wait_for_save

place, aside = pathlib.Path("run/checkpoints"), pathlib.Path("run/aside")
waits, mend_after, leave_after = WAITS, MEND_AFTER, LEAVE_AFTER
save_at_boundary.TRY_AGAIN_S = waits
report, failures = SaveLog.save_failed, 0

def save_failed(self, step, error):
    global failures
    failures += 1
    if rank == 1 and failures == mend_after:
        place.unlink()
        aside.rename(place)
    if rank == 1 and failures == leave_after:
        os.kill(os.getpid(), signal.SIGTERM)
    report(self, step, error)

SaveLog.save_failed = save_failed

def main(run):
    job = prepare(run, epochs=2, keep=9, save_every="6 steps")
    for step in job:
        train(job, step)
        wait_for_save(job, 6, 12)
        if rank == 1 and step.number == 15 and "break" in sys.argv:
            place.rename(aside)
            place.write_text("")

Run.start(main)
"""


def run(launch: Any, waits: tuple[float, ...], *, mend_after: int = 0, leave_after: int = 0) -> Any:
    script = SCRIPT.replace("WAITS", str(waits)).replace("MEND_AFTER", str(mend_after))
    script = launch.script(script.replace("LEAVE_AFTER", str(leave_after)))
    return launch("--nproc-per-node", "2", "--run-dir", "run", script, "break")


def steps(launch: Any) -> list[int]:
    return CheckpointStore(Path(launch.folder) / "run" / "checkpoints").steps()


def require_resumes(launch: Any) -> None:
    """Mend the disk, start the same command and see that it finishes."""
    folder = Path(launch.folder) / "run"
    (folder / "checkpoints").unlink()
    (folder / "aside").rename(folder / "checkpoints")
    script = launch.script(SCRIPT.replace("WAITS", "()").replace("MEND_AFTER, LEAVE_AFTER", "0, 0"))
    again = launch("--nproc-per-node", "2", "--run-dir", "run", script)
    assert again.wait(60) == 0, again.stderr
    assert steps(launch)[0] == 16


def test_a_disk_that_recovers_costs_nothing(launch: Any) -> None:
    launched = run(launch, (0.0, 0.0, 0.0), mend_after=2)
    assert launched.wait(60) == 0, launched.stderr
    assert launched.stderr.count("this was the last save of a finished run. It is tried again") == 1
    assert steps(launch) == [16, 12, 6]
    lines = (Path(launch.folder) / "run" / "events.jsonl").read_text().splitlines()
    kinds = [(event["event"], event.get("step")) for event in map(json.loads, lines)]
    assert kinds.count(("save failed", 16)) == 2
    assert kinds.count(("saved", 16)) == 1


def test_a_disk_that_does_not_recover_is_told_with_what_is_repeated(launch: Any) -> None:
    launched = run(launch, (0.0, 0.0))
    assert launched.wait(60) == 1
    told = "its end is not saved: the same command repeats the steps after step 12."
    assert told in launched.stderr
    require_resumes(launch)


def test_a_notice_ends_the_wait(launch: Any) -> None:
    launched = run(launch, (0.0, 600.0), leave_after=1)
    assert launched.wait(60) == 75, launched.stderr
    assert "its end is not saved. The same command resumes from step 12." in launched.stdout
    require_resumes(launch)
