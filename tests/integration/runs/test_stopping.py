"""What the tutorials do wrong: when to stop, what is left, and that it is over then."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpointing import CheckpointStore
from launcher.run_folder.history import read_run

WORKERS = Path(__file__).parents[1] / "workers"
SCRIPT = str(WORKERS / "stopping.py")
pytestmark = pytest.mark.timeout(300)
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def test_a_run_that_stopped_early_is_over_until_its_arguments_say_otherwise(
    launch: Callable[..., Any], run: Any
) -> None:
    command = ("--nproc-per-node", "2", "--run-dir", str(run.path), SCRIPT)
    curve = ("--values", "3", "1", "2", "2", "2", "2", "2", "2")
    first = launch(*command, *curve, env=ONE_THREAD)
    assert first.wait(100) == 0, first.stderr
    (end,) = run.events("end")
    assert (end["ending"], end["step"]) == ("early stop", 8)
    assert "val/loss did not improve in 2 evaluations in a row (best 1 at step 4)" in end["reason"]
    assert "the model holds its best weights, of step 4" in first.stdout
    assert "exported the best model (step 4)" in first.stdout
    before = run.records("metrics.jsonl")

    again = launch(*command, *curve, env=ONE_THREAD)
    assert again.wait(100) == 0, again.stderr
    assert "this run had finished already: early stop" in again.stdout
    assert read_run(run.path).is_over
    assert run.records("metrics.jsonl") == before
    assert len(run.events("end")) == 1

    patient = launch(*command, *curve, "--patience", "4", env=ONE_THREAD)
    assert patient.wait(100) == 0, patient.stderr
    assert "by its new arguments it has not, and continues" in patient.stdout
    assert [end["step"] for end in run.events("end")] == [8, 12]
    steps = [record["step"] for record in run.records("metrics.jsonl")]
    assert steps == list(range(1, 13))


def test_it_stops_on_accuracy_too(launch: Callable[..., Any], run: Any) -> None:
    launched = launch(
        *("--nproc-per-node", "2", "--run-dir", str(run.path), SCRIPT, "--monitor", "val/accuracy"),
        *("--measured", "accuracy", "--values", "0.1", "0.7", "nan", "0.7"),
        env=ONE_THREAD,
    )
    assert launched.wait(100) == 0, launched.stderr
    (end,) = run.events("end")
    assert (end["ending"], end["step"]) == ("early stop", 8)
    assert "best 0.7 at step 4" in end["reason"]
    with CheckpointStore(run.path / "checkpoints").open(8) as reader:
        state = reader.manifest.state["early_stopping"]
    assert (state["bad"], state["best"], state["mode"]) == (2, pytest.approx(0.7), "max")


def test_an_evaluation_that_is_not_finite_makes_all_ranks_go_back(
    launch: Callable[..., Any], run: Any
) -> None:
    launched = launch(
        *("--nproc-per-node", "2", "--strategy", "fsdp", "--run-dir", str(run.path), SCRIPT),
        *("--values", "3", "2", "nan", "1", "1.1", "--save-every", "1 epoch", "--patience", "2"),
        *("--on-nonfinite", "rollback"),
        env=ONE_THREAD,
    )
    assert launched.wait(100) == 0, launched.stderr
    (back,) = run.events("rolled back")
    assert (back["from_step"], back["step"], back["jumped_data_steps"]) == (6, 4, [4, 5])
    assert "val/loss is nan at step 6. Rolling back to step 4" in launched.stderr
    (end,) = run.events("end")
    assert (end["ending"], end["step"]) == ("early stop", 12)
    assert "best 1 at step 8" in end["reason"]
    steps = {r["step"]: r["val/loss"] for r in run.records("metrics.jsonl") if "val/loss" in r}
    assert steps == {2: 3, 4: 2, 6: 1.5, 8: 1, 10: 1.1, 12: 1.1}


def test_rank_1_alone_asks_and_all_leave_at_the_same_step(
    launch: Callable[..., Any], run: Any
) -> None:
    launched = launch(
        *("--nproc-per-node", "3", "--run-dir", str(run.path), SCRIPT, "--values", "1"),
        *("--rank-1-stops-at", "5", "--patience", "99"),
        env=ONE_THREAD,
    )
    assert launched.wait(100) == 0, launched.stderr
    (end,) = run.events("end")
    assert (end["ending"], end["step"]) == ("stopped", 6)
    assert "rank 1 has seen enough" in end["reason"]
    assert [(run.path / f"left-{rank}").read_text() for rank in range(3)] == ["6"] * 3


def scheduled(step: int, total: int) -> float:
    """The tutorials' schedule, written out: 5 epochs up, then half a cosine from 1e-2 to 1e-3."""
    if step < 10:
        return 1e-2 * (step + 1) / 10
    return 1e-3 + 9e-3 * 0.5 * (1 + math.cos(math.pi * (step - 10) / (total - 11)))


def test_warmup_cosine_a_save_every_10_epochs_and_a_cut_that_survives_a_preemption(
    launch: Callable[..., Any], run: Any
) -> None:
    falling = [f"{1 - n / 100}" for n in range(12)]
    command = (
        *("--nproc-per-node", "2", "--run-dir", str(run.path), SCRIPT, "--epochs", "25"),
        *("--patience", "99", "--plateau", "2", "--save-every", "10 epochs"),
        # It falls for 12 epochs, then stands still: a cut after 14, 16, ...
        *("--values", *falling),
    )
    first = launch(*command, "--terminated-at", "30", env=ONE_THREAD)
    assert first.wait(100) == 75, first.stderr
    second = launch(*command, "--terminated-at", "30", env=ONE_THREAD)
    assert second.wait(100) == 0, second.stderr
    saved = [event["step"] for event in run.events("saved")]
    assert [step for step in saved if step in (20, 40, 50)] == [20, 40, 50]
    assert 30 < run.events("start")[1]["step"] <= 32
    cuts = [event["step"] for event in run.events("rate cut")]
    assert cuts == [28, 32, 36, 40, 44, 48]
    rates = {record["step"]: record["lr"] for record in run.records("metrics.jsonl")}
    assert rates == pytest.approx(
        {n + 1: scheduled(n, 50) * 0.5 ** sum(cut <= n for cut in cuts) for n in range(50)}
    )


def test_the_best_is_restored_under_every_strategy(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    worker = str(WORKERS / "best_worker.py")
    launched = launch("--nproc-per-node", "2", worker, str(tmp_path), env=ONE_THREAD)
    assert launched.wait(100) == 0, launched.stderr
    for rank in range(2):
        found = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert list(found) == ["ddp", "fsdp", "zero1", "zero2", "zero3"]
        for strategy, one in found.items():
            best, last = one["seen"][1], one["seen"][3]
            assert one["step"] == 8
            assert one["after"] == pytest.approx(best, abs=1e-6), strategy
            assert one["after"] == pytest.approx(found["ddp"]["after"], abs=1e-4), strategy
            assert max(abs(a - b) for a, b in zip(last, best, strict=True)) > 1e-3, strategy


@pytest.mark.parametrize(
    ("monitor", "code", "words", "saved"),
    [
        ("val/score", 2, 'needs mode="min" or mode="max"', []),
        ("val/accuracy", 1, "the evaluation after step 2 measured ['val/loss']", [2]),
    ],
)
def test_a_mistaken_monitor_is_said_at_once(
    monitor: str, code: int, words: str, saved: list[int], launch: Callable[..., Any], run: Any
) -> None:
    launched = launch(
        *("--run-dir", str(run.path), SCRIPT, "--values", "1", "--monitor", monitor), env=ONE_THREAD
    )
    assert launched.wait(100) == code
    assert words in launched.stderr
    assert "Traceback" not in launched.stderr
    assert run.steps_on_disk() == saved
