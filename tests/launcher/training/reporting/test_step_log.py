"""What is told of each step: its own loss, once that is known, and the pace of whole stretches."""

import math
from types import SimpleNamespace

import pytest

from launcher.run_folder.progress_line import NextSave
from launcher.training.recipe.interval import Every
from launcher.training.reporting.step_log import StepLog, next_save
from strategies import Agreed, BatchPlan, StepOutcome

PLAN = BatchPlan(num_samples=80, global_batch=8, micro_batch=4, epochs=1, seed=0)


class Told:
    """A run's console, folder and clock, as far as records need them."""

    def __init__(self):
        self.shown, self.said, self.written = [], [], []
        console = SimpleNamespace(
            wants_progress=lambda: True, progress=lambda line: self.shown.append(line(None))
        )
        self.run = SimpleNamespace(
            ranks=SimpleNamespace(is_coordinator=True),
            clock=lambda: 0.0,
            console=console,
            say=self.said.append,
            folder=SimpleNamespace(metrics=self.written.append),
            end_time=SimpleNamespace(now_s=lambda: None),
            preemption=SimpleNamespace(deadline=None),
            attempt=1,
        )

    def records(self, log_every=1):
        return StepLog(self.run, SimpleNamespace(log_every=log_every), Every(steps=100))


def agreed(step):
    return Agreed(step=step, preempt=0, stop=0, save=0, skipped=0, settled=0, loss=step / 100)


def step(seconds=1.0, **metrics):
    outcome = StepOutcome(grad_norm=1.0, applied=True)
    return SimpleNamespace(seconds=seconds, metrics=metrics, outcome=outcome, evaluation_s=0.5)


def test_a_line_has_the_loss_of_the_step_that_it_names():
    told = Told()
    records = told.records()
    for number in (1, 2, 3):
        records.step(number, PLAN, step(), 0.1, agreed(number - 1) if number > 1 else None, 0.0)
    records.flush(agreed(3))
    records.step(4, PLAN, step(), 0.1, agreed(3), 0.0)  # said once, though it is heard again
    words = [line.split("  ") for line in told.shown]
    assert [(w[0], w[2] if "loss" in w[2] else None) for w in words] == [
        ("step 1/10", None),  # at once: the first takes longest
        ("step 1/10", "loss 0.01"),
        ("step 2/10", "loss 0.02"),
        ("step 3/10", "loss 0.03"),
    ]
    assert [(r["step"], r["loss"]) for r in told.written] == [(1, 0.01), (2, 0.02), (3, 0.03)]


def test_what_was_measured_stays_and_a_table_has_no_room_in_a_line():
    told = Told()
    records = told.records()
    measured = {"val/loss": 0.5, "val/bad": math.nan, "val/table": [[1.0, math.nan]]}
    records.step(1, PLAN, step(**measured), 0.1, None, 0.0)
    assert told.shown == []
    records.flush(agreed(1))
    (line,) = told.said
    assert "loss 0.01" in line
    assert "val/loss 0.5" in line
    assert "table" not in line
    (record,) = told.written
    assert record["val/table"] == [[1.0, None]]
    assert "val/bad" not in record


def test_the_pace_is_not_that_of_the_few_steps_before_an_evaluation():
    told = Told()
    records = told.records(log_every=4)
    seconds = {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 0.1, 6: 1.9, 7: 1.0, 8: 1.0}
    for number, s in seconds.items():
        metrics = {"val/loss": 0.5} if number == 5 else {}
        before = agreed(number - 1) if number > 1 else None
        records.step(number, PLAN, step(s, **metrics), 0.1, before, 0.0)
    records.flush(agreed(8))
    paces = {r["step"]: r["samples_per_s"] for r in told.written}
    assert paces[4] == pytest.approx(8.0)
    assert paces[8] == pytest.approx(8.0)  # of steps 5 to 8, that of the evaluation too


@pytest.mark.parametrize(
    ("every", "step", "since_s", "expected"),
    [
        (Every(steps=50), 120, 0.0, NextSave(step=150)),
        (Every(steps=50), 150, 0.0, NextSave(step=200)),
        (Every(seconds=300.0), 120, 100.0, NextSave(left_s=200.0)),
        (Every(seconds=300.0), 120, 301.0, NextSave(left_s=0.0)),
    ],
)
def test_the_next_save(every, step, since_s, expected):
    assert next_save(every, step, since_s) == expected


def test_a_step_with_a_digest_has_a_record_in_any_case():
    told = Told()
    records = told.records(log_every=100)
    for number in (1, 2, 3):
        records.step(number, PLAN, step(), 0.1, agreed(number - 1) if number > 1 else None, 0.0)
        if number == 2:
            records.add_digest("0123456789abcdef")
    records.flush(agreed(3))
    assert [(r["step"], r["loss"], r["weights_digest"]) for r in told.written] == [
        (2, 0.02, "0123456789abcdef")
    ]
