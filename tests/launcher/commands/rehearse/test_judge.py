"""What counts as wrong, and where two runs part."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.commands.rehearse.draw import Fault
from launcher.commands.rehearse.evidence import Distance, Evidence, is_compared
from launcher.commands.rehearse.judge import Cause, judge, parting_of, records_text
from launcher.commands.rehearse.kinds import KINDS
from launcher.commands.rehearse.one_fault import Outcome, lost_steps, other_strategy
from launcher.commands.rehearse.page import Heading, document, page, summary, table, unchecked_text
from launcher.commands.rehearse.timeline import timeline

SAME = Distance(largest=0.0)
HEADING = Heading(
    words=("train.py", "--lr", "1"),
    ranks=2,
    strategy="ddp",
    steps=6,
    save_every=2,
    seed=0,
    uses_run=True,
    undisturbed_s=1.5,
    seconds=9.0,
)


def evidence(changed: Mapping[int, Mapping[str, Any]] | None = None) -> Evidence:
    """Return six steps of two micro-batches, with these records changed."""
    steps = range(1, 7)
    return Evidence(
        run_dir=Path("run"),
        records=tuple(
            {"step": s, "epoch": 0, "samples": 4 * s, "lr": 0.1, "loss": 1 / s}
            | dict((changed or {}).get(s, {}))
            for s in steps
        ),
        batches={(s - 1, m): frozenset({f"{s}.{m}"}) for s in steps for m in (0, 1)},
        final_step=6,
    )


def outcome(name: str = "notice-launcher", **given: Any) -> Outcome:
    fault = Fault(number=1, kind=KINDS[name], at_step=3, share=0.5, rank=0)
    usual: dict[str, Any] = {"codes": [75, 0], "at_step": 3, "resumed_at": 3, "intact": 3}
    return Outcome(fault=fault, **{**usual, "evidence": evidence(), **given})


def wrong(found: Outcome, distance: Distance | None = SAME, *, uses_run: bool = True) -> str:
    return "; ".join(judge(found, evidence(), distance, uses_run=uses_run).wrong)


def test_nothing_is_wrong_where_all_is_as_undisturbed() -> None:
    assert wrong(outcome()) == ""
    assert wrong(outcome("kill-writer", codes=[0], resumed_at=None, intact=None)) == ""
    assert wrong(outcome("network-cut", codes=[75, 0], other_codes={1: 75})) == ""


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (outcome(codes=[143, 0]), "exit code 143, and 75 was expected"),
        (outcome(codes=[None]), "did not end within --timeout"),
        (outcome(codes=[75, None]), "given again, the command did not end within --timeout"),
        (outcome(codes=[75, 1]), "given again, the command ended with 1"),
        (outcome(orphans=2), "2 processes left behind"),
        (outcome(lost=1), "1 finished steps lost"),
        (outcome("network-cut", codes=[75, 0], other_codes={1: 139}), "node 1 ended with 139"),
        (outcome("network-cut", codes=[75, 0], other_codes={1: None}), "node 1 did not end"),
        (outcome("kill-rank", codes=[137, 0], resumed_at=2), "resumed at step 2, and the check"),
    ],
)
def test_what_is_wrong_is_named(found: Outcome, sentence: str) -> None:
    assert sentence in wrong(found)


def test_steps_since_the_newest_checkpoint_may_be_lost_after_a_kill() -> None:
    assert wrong(outcome("kill-rank", codes=[137, 0], lost=1, intact=2, resumed_at=2)) == ""


def test_final_parameters_are_compared_as_exactly_as_the_fault_allows() -> None:
    rounding = Distance(largest=1e-7, tensor="fp32/a")
    assert "the final fp32/a differs by 1e-07" in wrong(outcome(), rounding)
    assert wrong(outcome("other-ranks"), rounding) == ""
    assert "differs by 0.001" in wrong(outcome("other-ranks"), replace(rounding, largest=1e-3))
    assert "no final" in wrong(outcome(), Distance(largest=1.0, trouble="there is no final"))


def test_rounding_noise_counts_only_where_every_bit_must_be_the_same() -> None:
    rest = Distance(largest=3e-8, tensor="fp32/w")
    noisy = Distance(largest=1e-4, tensor="fp32/k.bias", noise=1e-4, beyond_noise=rest)
    verdicts = [
        judge(outcome(name), evidence(), noisy, uses_run=True)
        for name in ("other-ranks", "notice-launcher")
    ]
    other, same = verdicts
    assert other.wrong == ()
    assert same.wrong == ("the final fp32/k.bias differs by 0.0001 from the undisturbed run",)
    assert "differences up to 1.0e-04 are ignored" in summary([other])
    assert "ignored" not in summary([same])
    entry, raw = document(HEADING, verdicts)["faults"]
    assert (entry["largest_difference"], entry["tensor"], entry["noise"]) == (3e-8, "fp32/w", 1e-4)
    assert (raw["largest_difference"], raw["noise"]) == (1e-4, None)
    assert "| 3e-08 |" in table([other])
    more = replace(noisy, beyond_noise=replace(rest, largest=1e-3))
    assert "the final fp32/w differs by 0.001" in wrong(outcome("other-ranks"), more)


def test_samples_are_seen_once_each() -> None:
    whole = evidence()
    missing = {place: one for place, one in whole.batches.items() if place != (4, 1)}
    assert "step 4 were never seen" in wrong(outcome(evidence=replace(whole, batches=missing)))
    more = {**whole.batches, (4, 2): frozenset({"x"})}
    assert "does not have undisturbed" in wrong(outcome(evidence=replace(whole, batches=more)))
    twice = {**whole.batches, (4, 1): frozenset({"5.1", "other"})}
    parting = parting_of(replace(whole, batches=twice), whole, outcome())
    assert parting is not None
    assert (parting.step, parting.cause) == (5, Cause.DATA)


@pytest.mark.parametrize(("step", "cause"), [(2, Cause.SCRIPT), (4, Cause.STATE), (6, Cause.LATER)])
def test_the_first_difference_has_a_likely_cause(step: int, cause: Cause) -> None:
    found = evidence({s: {"loss": 9.0} for s in range(step, 7)})
    parting = parting_of(found, evidence(), outcome())
    assert parting is not None
    assert (parting.step, parting.what, parting.cause) == (step, "loss", cause)
    assert cause.value in wrong(outcome(evidence=found))


def test_evaluations_are_compared_and_rounding_is_none_under_other_ranks() -> None:
    theirs = evidence({4: {"val/loss": 1.0}})
    mine = evidence({4: {"val/loss": 1.0 + 1e-8}})
    assert parting_of(mine, theirs, outcome("other-ranks")) is None
    assert parting_of(mine, theirs, outcome()) is not None
    assert parting_of(evidence(), theirs, outcome("other-ranks")) is not None


def test_a_fault_that_could_not_happen_is_left_out() -> None:
    verdict = judge(outcome(absent="no loader"), evidence(), None, uses_run=True)
    assert verdict.is_left_out
    assert not verdict.wrong


def test_without_run_exit_codes_and_processes_are_judged() -> None:
    assert wrong(outcome(codes=[143, 0]), None, uses_run=False) == ""
    assert wrong(outcome(codes=[77, 0]), None, uses_run=False) != ""
    assert wrong(outcome(codes=[143, 3]), None, uses_run=False) != ""


@pytest.mark.parametrize(
    ("begun", "lost"), [([], 0), ([0, 1, 2], 0), ([0, 1, 2, 1, 2, 3, 2], 2), ([5, 0], 5)]
)
def test_lost_steps(begun: list[int], lost: int) -> None:
    assert lost_steps(begun) == lost


@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_another_strategy_is_another(strategy: str) -> None:
    assert other_strategy(strategy) != strategy


def test_a_record_that_was_cut_may_be_missing() -> None:
    whole = evidence()
    one_less = replace(whole, records=(*whole.records[:2], *whole.records[3:]))
    assert wrong(outcome("metrics-cut", evidence=one_less)) == ""
    assert "without 3" in wrong(outcome("events-cut", evidence=one_less))
    two_less = replace(whole, records=whole.records[2:])
    assert "without 1, 2" in wrong(outcome("metrics-cut", evidence=two_less))


def test_records_text() -> None:
    text = records_text([1, 1, 3, 9], [1, 2, 3])
    assert text == "metrics.jsonl has steps twice 1; without 2; besides 9"
    assert records_text([2, 1], [1, 2]) == "metrics.jsonl is unsorted"


def test_the_page_has_a_row_for_each_fault_and_says_what_was_wrong() -> None:
    spans = [(0.0, 1.5), (1.6, 2.0)]
    verdicts = [
        judge(outcome(spans=spans, fault_s=1.0), evidence(), SAME, uses_run=True),
        judge(outcome(codes=[1], output="line"), evidence(), SAME, uses_run=True),
        judge(outcome("kill-loader", absent="a < b"), evidence(), None, uses_run=True),
    ]
    text = page(HEADING, verdicts)
    assert "`train.py --lr 1`: 2 ranks, ddp, 6 steps" in text
    assert "| 1 | notice-launcher | 3 | 75, 0 | 0 |  | 0 | 0 | ok |" in text
    assert "- exit code 1, and 75 was expected\n\n    line" in text
    assert summary(verdicts) == "3 faults: 1 passed, 1 failed, 1 skipped."
    assert "2 nodes of 1 rank, ddp" in page(replace(HEADING, nodes=2), verdicts)
    assert "does not use `Run`" in page(replace(HEADING, uses_run=False), verdicts)
    picture = timeline(verdicts)
    assert picture.count("<rect") == 3
    assert picture.count("<line") == 1
    assert "kill-loader" in picture


def test_the_document_holds_what_is_printed() -> None:
    apart = Distance(largest=float("inf"), trouble="there is no final checkpoint")
    found = [
        judge(outcome(resume_s=0.5), evidence(), SAME, uses_run=True),
        judge(outcome(lost=1), evidence({4: {"loss": 9.0}}), apart, uses_run=True),
        judge(
            outcome("kill-loader", absent="no process loaded data"), evidence(), None, uses_run=True
        ),
    ]
    told = json.loads(json.dumps(document(HEADING, found), allow_nan=False))
    assert {key: told[key] for key in ("ok", "wrong", "left_out", "seed", "strategy")} == {
        "ok": 1,
        "wrong": 1,
        "left_out": 1,
        "seed": 0,
        "strategy": "ddp",
    }
    assert told["words"] == ["train.py", "--lr", "1"]
    fine, bad, absent = told["faults"]
    assert fine == {
        "number": 1,
        "fault": "notice-launcher",
        "rank": 0,
        "at_step": 3,
        "exit_codes": [75, 0],
        "steps_lost": 0,
        "resume_s": 0.5,
        "orphans": 0,
        "largest_difference": 0.0,
        "tensor": None,
        "noise": None,
        "parts_at": None,
        "cause": None,
        "result": "ok",
        "left_out": None,
        "wrong": [],
    }
    assert bad["result"] == "wrong"
    assert (bad["largest_difference"], bad["parts_at"], bad["cause"]) == (None, 4, "state")
    assert "1 finished steps lost" in bad["wrong"]
    assert (absent["result"], absent["left_out"]) == ("left_out", "no process loaded data")


def test_the_keys_are_those_of_the_page() -> None:
    text = (Path(__file__).parents[4] / "docs" / "rehearse.md").read_text()
    verdict = judge(outcome(), evidence(), SAME, uses_run=True)
    told = document(HEADING, [verdict])
    assert [key for key in {**told, **told["faults"][0]} if f"`{key}`" not in text] == []


@pytest.mark.parametrize(
    ("name", "uses_run", "compared"),
    [
        ("fp32/w", False, True),
        ("exp_avg/w", False, True),
        ("object/own loop: each rank's place/0", False, False),
        ("object/mine", True, True),
    ],
)
def test_random_numbers_that_a_script_does_not_seed_are_not_compared(
    name: str, uses_run: bool, compared: bool
) -> None:
    assert is_compared(name, uses_run=uses_run) is compared


def test_an_own_loop_is_compared_by_its_final_checkpoint() -> None:
    apart = Distance(largest=0.5, tensor="fp32/w")
    assert wrong(outcome(codes=[143, 0]), uses_run=False) == ""
    assert "the final fp32/w differs by 0.5" in wrong(outcome(), apart, uses_run=False)
    assert wrong(outcome(), None, uses_run=False) == ""


@pytest.mark.parametrize(("has_checkpoints", "start"), [(True, "Samples"), (False, "Parameters")])
def test_what_is_not_checked_is_printed(has_checkpoints: bool, start: str) -> None:
    text = unchecked_text(has_checkpoints=has_checkpoints)
    assert f"{start}, " in text
    assert ("final checkpoint" in text) is has_checkpoints
