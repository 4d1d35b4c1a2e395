"""What a verification prints, as text and as one document."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.commands.trials.compare import Comparison
from launcher.commands.trials.outcome import MicroBatch, Outcome
from launcher.commands.trials.run_trial import Trial
from launcher.commands.verify.causes import Cause
from launcher.commands.verify.report import (
    Report,
    timed_out_text,
    without_run_document,
    without_run_text,
)
from launcher.commands.verify.verdict import APART, EQUAL, REFUSED, Row
from launcher.contract.trial import TrialSettings

PAGE = Path(__file__).parents[4] / "docs" / "verify.md"


def outcome(name: str = "single on 1 rank", ranks: int = 1, strategy: str = "single") -> Outcome:
    steps = tuple(range(1, 7))
    return Outcome(name=name, ranks=ranks, strategy=strategy, code=0, folder=Path(), steps=steps)


DDP = outcome("ddp on 2 ranks", 2, "ddp")
FSDP = outcome("fsdp on 2 ranks", 2, "fsdp")
SAME = Row(
    outcome=DDP,
    verdict=EQUAL,
    comparison=Comparison(loss=1e-8, parameters=float("inf"), num_steps=6, noise=2e-5),
)
OTHER = Row(
    outcome=DDP,
    verdict=APART,
    comparison=Comparison(loss=0.1, parameters=0.2, num_steps=6, step=2, tensor="fp32/w"),
    cause=Cause.RANDOM_OUTSIDE,
    sentence="random numbers outside",
)
REFUSES = Row(outcome=FSDP, verdict=REFUSED, sentence="it refuses this")


def report(*rows: Row, **more: Any) -> Report:
    return Report(first=outcome(), rows=rows, tolerance=1e-6, **more)


@pytest.mark.parametrize(
    ("found", "is_equal"),
    [
        (report(SAME), True),
        (report(SAME, OTHER), False),
        (report(SAME, REFUSES), True),  # a strategy that does not fit is no mistake
        (report(SAME, REFUSES, strategies_are_named=True), False),
        (report(replace(REFUSES, outcome=DDP)), False),
    ],
)
def test_what_is_equal(found: Report, is_equal: bool) -> None:
    assert found.is_equal is is_equal
    assert ("equal up to 1e-06" in found.text()) is is_equal
    assert found.document()["equal"] is is_equal


def test_the_text_has_each_sentence_once_with_its_remedy() -> None:
    text = report(SAME, OTHER, OTHER, warnings=("random numbers outside", "a mean")).text()
    assert text.count("ddp on 2 ranks: random numbers outside\n  Draw from") == 1
    assert "ignored: differences up to 2.0e-05" in text
    assert "the run warned: a mean" in text
    assert "the run warned: random" not in text


def test_the_document_holds_what_is_printed() -> None:
    found = json.loads(json.dumps(report(SAME, OTHER, REFUSES).document(), allow_nan=False))
    first, same, other, refuses = found["runs"]
    assert (first["name"], first["verdict"], first["steps"]) == ("single on 1 rank", "first", 6)
    assert (same["verdict"], same["loss"], same["parameters"]) == ("equal", 1e-8, None)
    assert other == {
        "name": "ddp on 2 ranks",
        "ranks": 2,
        "strategy": "ddp",
        "exit_code": 0,
        "steps": 6,
        "verdict": "apart",
        "loss": 0.1,
        "parameters": 0.2,
        "step": 2,
        "tensor": "fp32/w",
        "cause": "random_outside",
        "sentence": "random numbers outside",
        "remedy": Cause.RANDOM_OUTSIDE.remedy,
    }
    assert (refuses["verdict"], refuses["sentence"]) == ("refused", "it refuses this")
    assert (found["tolerance"], found["left_out"], found["warnings"]) == (1e-6, 2e-5, [])


def test_a_script_without_run() -> None:
    assert "1 rank(s): 0, 2 rank(s): 0" in without_run_text("t.py", [outcome(), DDP])
    found = without_run_document([outcome(), DDP])
    assert (found["equal"], found["uses_run"]) == (None, False)
    assert [one["exit_code"] for one in found["runs"]] == [0, 0]


@pytest.mark.parametrize(
    ("batches", "steps", "sentence"),
    [
        ({}, (), "no step of run.prepare's loop was seen, and --steps shortens no other. Pass"),
        ({(0, 0): MicroBatch(rank=0)}, (), "0 of 6 steps were done. Pass --timeout S, or fewer"),
        ({}, (1, 2), "2 of 6 steps were done."),
    ],
)
def test_a_trial_out_of_time_is_told_what_shortens_it(
    batches: dict[tuple[int, int], MicroBatch], steps: tuple[int, ...], sentence: str
) -> None:
    trial = Trial(
        name="1 rank",
        words=("train.py",),
        ranks=1,
        strategy="single",
        folder=Path(),
        settings=TrialSettings(steps=6),
        timeout_s=8,
    )
    found = replace(outcome(), micro_batches=batches, steps=steps)
    text = timed_out_text(trial, found)
    assert text.startswith("1 rank did not end in 8 s; ")
    assert sentence in text


def test_the_keys_are_those_of_the_page() -> None:
    found = report(OTHER).document()
    keys = {**found, **found["runs"][1]}
    assert [key for key in keys if f"`{key}`" not in PAGE.read_text()] == []
