"""Samples of different lengths: a function of the script's makes the batches, or a sentence."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(200)

SCRIPT = str(Path(__file__).parents[1] / "workers" / "ragged_run.py")
SAID = "uses collate= of run.prepare, as the training does"


def start(launch: Any, ranks: int, way: str) -> Any:
    strategy = "single" if ranks == 1 else "ddp"
    run = ("--nproc-per-node", str(ranks), "--strategy", strategy)
    launched = launch(*run, "--run-dir", str(launch.folder / "r"), SCRIPT, way)
    launched.wait(100)
    return launched


@pytest.mark.parametrize(
    ("way", "used"),
    [
        ("other", ["evaluation", "train"]),
        ("fit", ["train"]),
        ("fit, other", ["evaluation", "train"]),
    ],
)
def test_they_are_batched_in_training_evaluation_and_test(
    way: str, used: list[str], launch: Any, run: Any
) -> None:
    losses = []
    for ranks in (1, 2):
        done = start(launch, ranks, way)
        assert done.wait() == 0, done.stderr
        assert f"used {used}" in done.stdout
        assert done.stdout.count(f"the evaluation val {SAID}") == (way == "fit")
        assert done.stdout.count(f"the evaluation test {SAID}") == (way == "fit")
        records = (launch.folder / "r" / "events.jsonl").read_text()
        losses.append(records.partition('"test/loss": ')[2].partition("}")[0])
        (launch.folder / "r").rename(launch.folder / f"r{ranks}")
    assert float(losses[0].split(",")[0]) == pytest.approx(float(losses[1].split(",")[0]), rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_without_one_a_sentence_names_two_samples_and_the_way(ranks: int, launch: Any) -> None:
    done = start(launch, ranks, "none")
    assert done.wait() == 2, done.stderr
    assert "cannot be stacked into one batch: ['ids'] is of shape (" in done.stderr
    assert "Pass collate= (to run.prepare, or to step.evaluate and job.test)" in done.stderr
    assert "Traceback" not in done.stderr
