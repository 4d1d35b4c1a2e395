"""Saves that are written while a run goes on, with real processes on two ranks."""

import json
from pathlib import Path

import pytest

from checkpointing import CheckpointStore
from checkpointing.store.diff import different_values

pytestmark = pytest.mark.timeout(120)

# Saves begin after steps 4, 8 and 12; the stopped writer keeps the save of step 8 in flight.
SCRIPT = """
import threading
from launcher import Run
from linear_run import prepare, tell, train, wait_for_save, writers

def main(run):
    job = prepare(run, epochs=2, keep=9, save_every="4 steps")
    for step in job:
        train(job, step)
        if step.number == 4:
            wait_for_save(job, 4)  # so that the first save is over when the second begins
        if rank == 1:
            at_step(step.number)
    assert not writers()

def at_step(number):
    {AT_STEP}

Run.start(main)
"""


def run_script(launch, at_step: str, *options: str):
    script = launch.script(SCRIPT.replace("{AT_STEP}", at_step))
    return launch("--nproc-per-node", "2", "--run-dir", "run", *options, script)


def events(launch, kind: str) -> list[dict]:
    lines = (Path(launch.folder) / "run" / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def steps(launch) -> list[int]:
    store = CheckpointStore(Path(launch.folder) / "run" / "checkpoints")
    assert all(store.verify(step) == [] for step in store.steps())
    assert [path.name for path in store.folder.iterdir() if path.name.startswith(".")] == []
    return store.steps()


def test_a_killed_writer_costs_one_save(launch):
    kill = "number == 6 and tell(signal.SIGSTOP); number == 9 and tell(signal.SIGKILL)"
    launched = run_script(launch, kill, "--strategy", "zero1")
    assert launched.wait(60) == 0, launched.stderr
    (failed,) = events(launch, "save failed")
    assert failed["step"] == 8
    assert "rank 1: the process that writes checkpoints was ended by signal 9" in failed["reason"]
    assert [event["step"] for event in events(launch, "saved")] == [4, 12, 16]
    assert steps(launch) == [16, 12, 4]


def test_leaving_waits_for_the_save_in_flight(launch):
    leave = (
        "number == 6 and tell(signal.SIGSTOP); number == 9 and ("
        "threading.Timer(1.0, tell, (signal.SIGCONT,)).start(), "
        "os.kill(os.getpid(), signal.SIGTERM))"
    )
    launched = run_script(launch, leave, "--strategy", "ddp")
    assert launched.wait(60) == 75, launched.stderr
    saved = [event["step"] for event in events(launch, "saved")]
    assert saved[:2] == [4, 8]
    assert len(saved) == 3
    assert steps(launch) == sorted(saved, reverse=True)
    again = run_script(launch, "pass", "--strategy", "fsdp")
    assert again.wait(60) == 0, again.stderr
    assert events(launch, "end")[-1]["ending"] == "completed"


def test_a_killed_rank_leaves_a_save_that_the_next_start_drops(launch):
    kill = "number == 6 and tell(signal.SIGSTOP); number == 10 and os.kill(os.getpid(), 9)"
    launched = run_script(launch, kill, "--strategy", "ddp")
    assert launched.wait(60) == 137
    assert [event["step"] for event in events(launch, "saved")] == [4]
    again = run_script(launch, "pass", "--strategy", "ddp")
    assert again.wait(60) == 0, again.stderr
    assert events(launch, "start")[-1]["step"] == 4
    assert steps(launch) == [16, 12, 8, 4]


def test_saves_that_keep_failing_are_told_loudly_and_end_with_the_cause(launch):
    full = (
        "number == 0 and pathlib.Path('run/checkpoints').write_text('');"
        "number == 13 and pathlib.Path('run/checkpoints').unlink()"
    )
    launched = run_script(launch, full, "--strategy", "ddp")
    assert launched.wait(60) == 0, launched.stderr
    assert [event["step"] for event in events(launch, "save failed")] == [4, 8, 12]
    (loud,) = events(launch, "saves keep failing")
    assert (loud["in_a_row"], loud["newest"]) == (3, None)
    assert launched.stderr.count("THE LAST 3 SAVES HAVE ALL FAILED") == 1
    assert steps(launch) == [16]


def test_auto_saves_by_the_coordinators_clock_and_says_when_the_next_is_due(launch):
    script = SCRIPT.replace('"4 steps"', '"auto"').replace(
        "def main(run):",
        "from launcher.training.saving import save_interval\n"
        "save_interval.FIRST_S = save_interval.LEAST_S = 0.0 if rank == 0 else 1e9\n"
        "def main(run):",
    )
    script = launch.script(script.replace("{AT_STEP}", "pass"))
    launched = launch("--nproc-per-node", "2", "--run-dir", "run", "--strategy", "ddp", script)
    assert launched.wait(60) == 0, launched.stderr
    first, *_, last = events(launch, "saved")
    assert first["step"] < 16
    assert first["next_in_s"] >= 2 * first["stall_s"]
    assert last["step"] == 16
    assert "next_in_s" not in last


def test_retention_keeps_what_was_asked_for_and_what_the_run_went_on_from(launch):
    script = SCRIPT.replace("keep=9", 'keep=1, keep_every="8 steps"')
    pin = "from checkpointing import CheckpointStore\n    "
    pin += "number == 8 and CheckpointStore(pathlib.Path('run/checkpoints')).pin(4)\n    "
    leave = pin + "number == 9 and os.kill(os.getpid(), signal.SIGTERM)"
    for at_step, code in ((leave, 75), ("pass", 0)):
        name = launch.script(script.replace("{AT_STEP}", at_step))
        launched = launch("--nproc-per-node", "2", "--run-dir", "run", "--strategy", "ddp", name)
        assert launched.wait(60) == code, launched.stderr
    (went_on,) = (event["step"] for event in events(launch, "start") if event["resumed"])
    assert went_on not in (4, 8, 12, 16)
    assert steps(launch) == sorted({4, 8, went_on, 16}, reverse=True)


LATE = """
import pathlib
import sys
import time
from checkpointing.background import shard_copy
from launcher import Run
from linear_run import prepare, train

copy = shard_copy._copy_together
late = []

def slowly(pieces, *, is_aside=False):
    if is_aside:
        late.append(len(pieces))
        time.sleep(0.1)  # if nothing waits, the next update is over by then
    copy(pieces, is_aside=is_aside)

def main(run):
    job = prepare(run, epochs=1, keep=9, save_every="2 steps")
    for step in job:
        train(job, step)
    if late:
        pathlib.Path("copied-late").touch()

if "--slowly" in sys.argv:
    shard_copy._copy_together = slowly
Run.start(main)
"""


@pytest.mark.quick_cases("ddp", "fsdp")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1"])
def test_moments_that_are_copied_during_the_next_step_are_those_of_their_own(launch, strategy):
    script = launch.script(LATE)
    for folder, options in (("at-once", ()), ("late", ("--slowly",))):
        arguments = ("--nproc-per-node", "2", "--run-dir", folder, "--strategy", strategy)
        launched = launch(*arguments, script, *options)
        assert launched.wait(60) == 0, launched.stderr
    assert (Path(launch.folder) / "copied-late").exists()
    left, right = (
        CheckpointStore(Path(launch.folder) / name / "checkpoints") for name in ("at-once", "late")
    )
    assert left.steps() == right.steps() == [8, 6, 4, 2]
    for step in left.steps():
        with left.open(step) as ours, right.open(step) as theirs:
            assert {spec.key for spec in ours.manifest.specs()} >= {"fp32", "exp_avg", "exp_avg_sq"}
            assert list(different_values(ours, theirs)) == []


FULL = """
from checkpointing.background import staging
from launcher import Run
from linear_run import prepare, train

staging._STEP_BYTES = 64
staging._LEFT_BYTES = 1 << 60  # more than any host has

def main(run):
    job = prepare(run, epochs=1, keep=9, save_every="2 steps")
    for step in job:
        train(job, step)

Run.start(main)
"""


def test_where_the_host_has_no_memory_for_a_copy_saves_are_made_all_the_same(launch):
    script = launch.script(FULL)
    launched = launch("--nproc-per-node", "2", "--run-dir", "run", "--strategy", "ddp", script)
    assert launched.wait(60) == 0, launched.stderr
    assert steps(launch) == [8, 6, 4, 2]
    (event,) = events(launch, "saved in the foreground")
    assert "does not fit into the host's memory" in event["reason"]
    assert launched.stderr.count("waits while that part of a save is written") == 1
