"""The best weights are written while a run goes on, and count once they are committed."""

import json
import signal
from pathlib import Path

import pytest

from checkpointing import CheckpointStore

pytestmark = pytest.mark.timeout(150)

# Evaluations follow steps 2, 4, 6, ..., saves steps 4, 8, 12 and 16.
SCRIPT = """
import json
import threading
from launcher import Run
from linear_run import prepare, samples, tell, train, wait_for_save
from strategies import EarlyStopping

LOSSES = {2: 3.0, 4: 4.0, 6: 2.0} | {int(k): v for k, v in json.loads(sys.argv[1]).items()}

def main(run):
    stop = EarlyStopping("val/loss", patience=99)
    job = prepare(run, epochs=2, keep=9, evaluate_every="2 steps", stop=stop)
    for step in job:
        train(job, step)
        done = step.number + 1
        if step.evaluation_due:
            loss = LOSSES.get(done, 9.0)
            step.evaluate(samples(), lambda model, batch: {"loss": 0 * batch[1].flatten() + loss})
        if done == 6:
            wait_for_save(job, 2, 4)  # what was begun before has been written
        if rank == 1:
            after(done, job)
    job.export("best")

def after(done, job):
    {AFTER}

Run.start(main)
"""
HELD = "done == 6 and tell(signal.SIGSTOP)"


def start(launch, after, losses=None):
    script = launch.script(SCRIPT.replace("{AFTER}", after))
    words = ("--nproc-per-node", "2", "--run-dir", "run", script, json.dumps(losses or {}))
    return launch(*words)


def events(launch, kind):
    lines = (Path(launch.folder) / "run" / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def best(launch):
    return CheckpointStore(Path(launch.folder) / "run" / "best")


def known_best(launch):
    """What each checkpoint says is the best, by step."""
    store = CheckpointStore(Path(launch.folder) / "run" / "checkpoints")
    known = {}
    for step in store.steps():
        with store.open(step) as reader:
            known[step] = reader.manifest.state["early_stopping"]["best_step"]
    return known


def require_consistent(launch):
    """Whatever a checkpoint refers to as the best is there, whole."""
    for step in known_best(launch).values():
        assert step is None or best(launch).verify(step) == []


def test_the_run_goes_on_while_the_best_is_written(launch):
    note = (
        f"{HELD}; done == 7 and pathlib.Path('seen').write_text(json.dumps("
        "[job._checkpointer.saving_step, job.run.folder.best.steps()])); "
        "done == 7 and tell(signal.SIGCONT)"
    )
    launched = start(launch, note)
    assert launched.wait(80) == 0, launched.stderr
    # In the middle of step 7 the best of step 6 is on its way, and not yet the best.
    assert json.loads((Path(launch.folder) / "seen").read_text()) == [6, [2]]
    found = events(launch, "best")
    assert [event["step"] for event in found] == [2, 6]
    assert all(0 <= event["stall_s"] <= event["seconds"] for event in found)
    assert known_best(launch) == {4: 2, 8: 6, 12: 6, 16: 6}
    require_consistent(launch)


def test_a_run_killed_while_the_best_is_written_has_the_former_one(launch):
    kill = f"{HELD}; done == 8 and os.kill(os.getpid(), signal.SIGKILL)"
    killed = start(launch, kill)
    assert killed.wait(80) == 128 + signal.SIGKILL, killed.stderr
    assert best(launch).steps() == [2]
    assert known_best(launch) == {4: 2}
    require_consistent(launch)
    again = start(launch, "pass")
    assert again.wait(80) == 0, again.stderr
    assert "resuming from step 4" in again.stdout
    assert known_best(launch) == {4: 2, 8: 6, 12: 6, 16: 6}
    require_consistent(launch)
    assert best(launch).publishing.leftovers() == []
    assert "exported the best model (step 6)" in again.stdout


def test_a_best_that_cannot_be_written_leaves_the_former_one(launch):
    launched = start(launch, f"{HELD}; done == 7 and tell(signal.SIGKILL)")
    assert launched.wait(80) == 0, launched.stderr
    (failed,) = events(launch, "save failed")
    assert failed["step"] == 6
    assert known_best(launch) == {4: 2, 8: 2, 12: 2, 16: 2}
    assert best(launch).steps() == [2]
    require_consistent(launch)
    assert "exported the best model (step 2)" in launched.stdout


def test_a_second_best_waits_for_the_first(launch):
    go_on = "done == 8 and threading.Timer(0.5, tell, [signal.SIGCONT]).start()"
    launched = start(launch, f"{HELD}; {go_on}", {8: 1.0})
    assert launched.wait(80) == 0, launched.stderr
    assert [event["step"] for event in events(launch, "best")] == [2, 6, 8]
    assert known_best(launch) == {4: 2, 8: 8, 12: 8, 16: 8}
    require_consistent(launch)


def test_a_best_that_ends_the_run_is_there_at_the_end(launch):
    launched = start(launch, "pass", {16: 0.5})
    assert launched.wait(80) == 0, launched.stderr
    assert known_best(launch)[16] == 16
    require_consistent(launch)
    assert "exported the best model (step 16)" in launched.stdout
