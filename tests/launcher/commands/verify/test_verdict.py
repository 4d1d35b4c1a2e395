"""One trial beside the first, in words."""

from pathlib import Path
from typing import Any

import pytest

from launcher.commands.trials.compare import Comparison
from launcher.commands.trials.outcome import Outcome, RankNotes
from launcher.commands.trials.run_trial import TIMED_OUT
from launcher.commands.verify.causes import Cause, Seen
from launcher.commands.verify.verdict import (
    APART,
    EQUAL,
    FAILED,
    REFUSED,
    compared_row,
    failed_row,
    file_rows,
    table,
)

SAME = Comparison(loss=1e-8, parameters=3e-8, num_steps=6)
OTHER = Comparison(loss=0.1, parameters=0.2, num_steps=6, step=2, tensor="fp32/w")
EXCEPTION = "relaunch: rank 0 failed\n  File x\nValueError: no such thing\nrelaunch: its output: /x"


def outcome(name: str = "ddp on 2 ranks", **more: Any) -> Outcome:
    given: dict[str, Any] = {"code": 0, "ranks": 2, "strategy": "ddp", **more}
    return Outcome(name=name, folder=Path(), **given)


@pytest.mark.parametrize(
    ("more", "verdict", "sentence"),
    [
        ({"code": TIMED_OUT}, FAILED, "did not end in the time of --timeout"),
        ({"code": 2, "errors": ("first", "no")}, REFUSED, "no"),
        ({"code": 1, "text": EXCEPTION}, FAILED, "exit code 1: ValueError: no such thing"),
        ({"code": 1, "text": "one\ntwo\n"}, FAILED, "exit code 1: two"),
        ({"code": 9}, FAILED, "exit code 9: nothing was printed"),
    ],
)
def test_why_a_trial_failed(more: dict[str, Any], verdict: str, sentence: str) -> None:
    row = failed_row(outcome(**more))
    assert row.verdict == verdict
    assert sentence in row.sentence


def test_ranks_that_fail_for_their_data() -> None:
    notes = {0: RankNotes(num_samples=9, first="f"), 1: RankNotes(num_samples=8, first="f")}
    row = failed_row(outcome(code=1, notes=notes, errors=("another configuration",)))
    assert row.cause is Cause.DATA_BY_RANK
    assert row.sentence.startswith("another configuration\n  a data set whose content or order")


@pytest.mark.parametrize(
    ("found", "seen", "verdict", "cause"),
    [
        (SAME, Seen(), EQUAL, None),
        (OTHER, Seen(loss_differs=True), APART, Cause.RANDOM_OUTSIDE),
        (SAME, Seen(data_differs=True), APART, Cause.AUGMENTATION),
        (SAME, Seen(warned_of_wrapper=True), APART, Cause.AROUND_WRAPPER),
        (SAME, Seen(warned_of_wrapper=True, is_resume=True), EQUAL, None),
        (SAME, Seen(is_resume=True, ends_differ=True), APART, Cause.PATIENCE_OUTSIDE),
    ],
)
def test_compared(found: Comparison, seen: Seen, verdict: str, cause: Cause | None) -> None:
    row = compared_row(outcome("single"), outcome(end_step=5), found, seen)
    assert (row.verdict, row.cause) == (verdict, cause)


def test_the_sentence_holds_what_was_seen() -> None:
    records = {1: {"samples": 8, "lr": 0.1}}, {1: {"samples": 16, "lr": 0.1}}
    first, other = (
        outcome(name, records=found) for name, found in zip(("a", "b"), records, strict=True)
    )
    row = compared_row(first, other, OTHER, Seen(samples_differ=True))
    assert row.sentence == "a per-device batch: a step has 8 samples as a, and 16 as b"


def test_files_of_several_ranks() -> None:
    notes = {0: RankNotes(wrote=("/out",)), 1: RankNotes(wrote=("/out",))}
    (row,) = file_rows([outcome(), outcome(notes=notes), outcome(notes=notes)])
    assert row.sentence == "a file that several ranks write: /out"
    assert file_rows([outcome()]) == []


def test_the_table() -> None:
    rows = [
        compared_row(outcome("a"), outcome("b"), OTHER, Seen(loss_differs=True)),
        failed_row(outcome("c", code=2)),
    ]
    lines = table(outcome("a", steps=(1, 2)), rows, "a").splitlines()
    assert [line.split() for line in lines] == [
        ["run", "loss", "parameters", "parts", "at"],
        ["a", "-", "-", "2", "steps"],
        ["b", "1.0e-01", "2.0e-01", "step", "2,", "fp32/w", "apart"],
        ["c", "refused"],
    ]
