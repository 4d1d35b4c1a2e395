"""A sweep of real runs is killed, is asked to leave, and goes on where it was."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(240)

SCRIPT = """
import torch
from dataclasses import dataclass
from torch.utils.data import TensorDataset
from launcher import Run

@dataclass(frozen=True)
class Config:
    lr: float = 0.1
    fold: int = 0
    folds: int = 2

def measure(model, batch):
    x, y = batch
    return {"loss": (model(x) - y).square().mean(1)}

def main(run):
    config = run.config(Config)
    generator = torch.Generator().manual_seed(0)
    samples = TensorDataset(torch.randn(64, 4, generator=generator), torch.ones(64, 1))
    train, val = run.folds(samples, config.folds)[config.fold]
    job = run.prepare(
        model=lambda: torch.nn.Linear(4, 1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=config.lr),
        train=train, global_batch=8, micro_batch=8, epochs=3, log_every=1, save_every="1 steps",
        track=[],
    )
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))
        if step.evaluation_due:
            step.evaluate(val, measure)
        if config.fold == 1 and step.number == 6:
            pathlib.Path("reached").touch()
            while not pathlib.Path("go").exists() and not run.context.preemption.requested:
                time.sleep(0.02)

Run.start(main)
"""


def until(condition: Callable[[], bool], timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s:g} s"
        time.sleep(0.05)


def test_killed_then_asked_to_leave_then_done(launch):
    script = launch.script(SCRIPT)
    words = ("sweep", "--sweep-dir", "s", "--monitor", "val/loss", "--folds", "2", "lr=0.1")
    words = (*words, "--search", "grid", "--", "--nproc-per-node", "1", script)
    reached = launch.folder / "reached"

    killed = launch(*words)
    until(reached.exists)
    killed.send(signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    done = (launch.folder / "s" / "trial-000" / "events.jsonl").read_text()
    reached.unlink()

    asked = launch(*words)
    until(reached.exists)
    asked.send(signal.SIGTERM)
    assert asked.wait(60) == 75, asked.stderr
    assert "the same command continues the sweep" in asked.stderr

    (launch.folder / "go").touch()
    last = launch(*words)
    assert last.wait(90) == 0, last.stderr
    assert (launch.folder / "s" / "trial-000" / "events.jsonl").read_text() == done
    table = (launch.folder / "s" / "results.txt").read_text()
    assert table in last.stdout
    rows = [line.split() for line in table.splitlines()]
    assert rows[0] == ["trial", "lr", "fold", "folds", "val/loss", "step", "state"]
    assert sorted(row[0] for row in rows[1:3]) == ["0", "1"]
    assert {row[-1] for row in rows[1:3]} == {"finished"}
    assert rows[-1][0:2] == ["lr=0.1", "2"]
    log = (launch.folder / "s" / "trial-001" / "output.log").read_text()
    assert log.count("resuming from step") == 2

    other = launch(*words[:-6], "--search", "random", *words[-4:])
    assert other.wait(60) == 2
    assert "holds a sweep with another search" in other.stderr
    assert Path(launch.folder, "s", "sweep.json").exists()
    assert os.listdir(launch.folder / "s").count("trial-002") == 0


def test_a_trial_s_script_imports_what_stands_beside_it(launch):
    (launch.folder / "beside.py").write_text("FOLD = 0\n")
    source = SCRIPT.replace("config.fold == 1", "beside.FOLD")
    script = launch.script(f"import beside\n{source}")
    words = ("sweep", "--sweep-dir", "s", "--monitor", "val/loss", "--search", "grid", "lr=0.1")
    done = launch(*words, "--", "--nproc-per-node", "1", script)
    assert done.wait(90) == 0, done.stderr
    assert "finished" in done.stdout


@pytest.mark.slow
def test_optuna_with_folds_survives_a_kill(launch):
    optuna = pytest.importorskip("optuna")
    script = launch.script(SCRIPT)
    words = (
        "sweep",
        "--sweep-dir",
        "s",
        "--monitor",
        "val/loss",
        "--folds",
        "2",
        "lr=1e-3:0.1:log",
    )
    words = (*words, "--search", "optuna", "--trials", "2", "--", "--nproc-per-node", "1", script)
    killed = launch(*words)
    until((launch.folder / "reached").exists)
    killed.send(signal.SIGKILL)
    assert killed.wait(60) == -signal.SIGKILL
    folder = launch.folder / "s"
    done = (folder / "trial-000" / "events.jsonl").read_text()

    (launch.folder / "go").touch()
    again = launch(*words)
    assert again.wait(150) == 0, again.stderr
    assert (folder / "trial-000" / "events.jsonl").read_text() == done
    assert "resuming from step" in (folder / "trial-001" / "output.log").read_text()
    rows = [line.split() for line in (folder / "results.txt").read_text().splitlines()]
    assert rows[0] == ["trial", "lr", "fold", "folds", "val/loss", "step", "state"]
    trials = {row[0]: row for row in rows[1:5]}
    assert sorted(trials) == ["0", "1", "2", "3"]
    assert trials["0"][1] == trials["1"][1] != trials["2"][1] == trials["3"][1]
    storage = optuna.storages.journal.JournalFileBackend(str(folder / "optuna.journal"))
    study = optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(storage))
    for number, trial in enumerate(study.trials):
        values = [float(trials[str(2 * number + fold)][4]) for fold in (0, 1)]
        assert trial.value == pytest.approx(sum(values) / 2, rel=1e-4)
    assert len(study.trials) == 2


def test_a_trial_that_cannot_begin_is_one_sentence(launch):
    script = launch.script(SCRIPT.replace("epochs=3", "epochs=0"))
    words = ("sweep", "--sweep-dir", "s", "--monitor", "val/loss", "lr=0.1", "--search", "grid")
    launched = launch(*words, "--", "--nproc-per-node", "1", script)
    assert launched.wait(60) == 2
    assert re.search(r"error: trial 0 cannot be started: train\.py:\d+: epochs=0", launched.stderr)
    assert "Traceback" not in launched.stderr
