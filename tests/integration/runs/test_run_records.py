"""metrics.jsonl and the console over several starts, with real processes."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
from launcher import Run
from launcher.training.saving import checkpointer
from linear_run import prepare, samples, train, wait_for_save
from strategies import EarlyStopping

first = int(os.environ["TORCHELASTIC_RESTART_COUNT"]) == 0 and not pathlib.Path("again").exists()
whole = checkpointer.Checkpointer.conclude

def conclude(self, best):
    step = self.saving_step
    saved = whole(self, best)
    if first and step == 8 and "{WHEN}" == "after":
        os.kill(os.getpid(), signal.SIGKILL)  # it is committed, and nobody has been told
    return saved

checkpointer.Checkpointer.conclude = conclude

def measure(model, batch):
    x, y = batch
    return {"loss": (model(x) - y).square().mean(1)}

def main(run):
    stop = EarlyStopping("val/loss", patience=9)
    job = prepare(run, epochs=3, log_every=1, evaluate_every="8 steps", stop=stop)
    for step in job:
        train(job, step)
        if step.evaluation_due:
            step.evaluate(samples(), measure)
        wait_for_save(job, 8)
        if first and step.number == 9 and "{WHEN}" == "before":
            os.kill(os.getpid(), signal.SIGKILL)

Run.start(main)
"""


@pytest.mark.parametrize(("when", "step", "lost"), [("before", 4, 4), ("after", 8, 4)])
def test_no_step_is_recorded_twice_and_none_is_missing(launch, when, step, lost):
    script = launch.script(SCRIPT.replace("{WHEN}", when))
    arguments = ("--nproc-per-node", "2", "--run-dir", "run", script)
    killed = launch(*arguments)
    assert killed.wait(60) == 137, killed.stderr
    (launch.folder / "again").touch()
    again = launch(*arguments)
    assert again.wait(60) == 0, again.stderr

    folder = Path(launch.folder) / "run"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == list(range(1, 25))
    # The evaluation of a step whose save was the last thing done is not lost with its process.
    assert [r["step"] for r in records if "val/loss" in r] == [8, 16, 24]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    start = [e for e in events if e["event"] == "start"][1]
    assert (start["step"], start["lost_steps"]) == (step, lost)
    assert [r["attempt"] for r in records] == [1] * step + [2] * (24 - step)
    assert f"taken over  step {step}" in again.stdout


def test_attempts_are_recorded_in_the_folder_that_the_script_names(launch):
    script = launch.script(
        """
        from launcher import Run

        def main(run):
            if run.context.environment.restart_count == 0:
                run.context.heartbeat.beat(1)
                raise ValueError("once")

        Run.start(main, run_dir="chosen")
        """
    )
    launched = launch("--max-restarts", "1", script)
    assert launched.wait(60) == 0, launched.stderr
    lines = (launch.folder / "chosen" / "events.jsonl").read_text().splitlines()
    attempts = [event for event in map(json.loads, lines) if event["event"] == "attempt"]
    assert [(one["attempt"], one["code"], one["restart"]) for one in attempts] == [
        (1, 1, True),
        (2, 0, False),
    ]
    assert not (launch.folder / "runs").exists()


def test_an_attempt_has_one_number_wherever_it_is_told(launch):
    """The first start fails before its ranks train; the second one does, and is started again."""
    script = launch.script(
        """
        import json
        from launcher import Run

        if not pathlib.Path("mended").exists():
            import no_such_module

        def main(run):
            run.say(f"this is attempt {run.attempt}")
            run.folder.event("start", attempt=run.attempt, step=0)
            if run.context.environment.restart_count == 0:
                run.context.heartbeat.beat(1)
                raise ValueError("once")

        Run.start(main)
        """
    )
    assert launch("--run-dir", "run", script).wait(60) == 1
    (launch.folder / "mended").touch()
    launched = launch("--run-dir", "run", "--max-restarts", "1", script)
    assert launched.wait(60) == 0, launched.stderr
    lines = (launch.folder / "run" / "events.jsonl").read_text().splitlines()
    told = [(e["event"], e["attempt"]) for e in map(json.loads, lines) if "attempt" in e]
    assert told == [("attempt", 1), ("start", 2), ("attempt", 2), ("start", 3), ("attempt", 3)]
    logs = launch.folder / "run" / "logs"
    assert sorted(path.name for path in logs.iterdir()) == ["attempt-1", "attempt-2", "attempt-3"]
    for number in (2, 3):
        said = (logs / f"attempt-{number}" / "rank-0.log").read_text()
        assert f"this is attempt {number}" in said
    assert json.loads((launch.folder / "run" / "run.json").read_text())["attempt"] == 3
