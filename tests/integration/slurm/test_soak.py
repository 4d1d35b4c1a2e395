"""Ten preemptions in a row: the same parameters, no step lost, no sample twice."""

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
PREEMPTIONS = 10
DIGITS = Path(__file__).parents[3] / "scripts" / "train_digits.py"
WORDS = "--epochs 120 --patience 1000"
"""Long enough for ten preemptions, each of which comes at most some hundred steps after a start."""


def test_ten_preemptions_in_a_row(jobs: Any, cluster: Any, run: Any, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    line = f"exec {jobs.relaunch} --run-dir {run.path} {DIGITS} {WORDS}"
    job = jobs.submit("--nodes=1", "--exclusive", body=line)
    for count in range(1, PREEMPTIONS + 1):
        jobs.until(lambda n=count: len(run.events("start")) == n, f"start {count}")
        begin = run.events("start")[-1]["step"]
        jobs.until(lambda b=begin: run.last_step() > b, "a step")
        jobs.preempt(3, seconds=0)
        jobs.wait_for_requeue(job, count)
    jobs.until(lambda: cluster.facts(job).state == "COMPLETED", "the end")

    starts, ends = run.events("start"), run.events("end")
    assert cluster.facts(job).restarts == PREEMPTIONS
    assert len(starts) == len(ends) == PREEMPTIONS + 1
    lost = [end["step"] - start["step"] for end, start in zip(ends, starts[1:], strict=False)]
    assert lost == [0] * PREEMPTIONS
    steps = [record["step"] for record in run.records("metrics.jsonl")]
    assert steps == sorted(set(steps))

    other = run.__class__(tmp_path / "other")
    whole = jobs.submit(body=f"exec {jobs.relaunch} --run-dir {other.path} {DIGITS} {WORDS}")
    jobs.until(lambda: cluster.facts(whole).state == "COMPLETED", "the undisturbed run")
    samples = [record["samples"] for record in run.records("metrics.jsonl")]
    assert samples == [record["samples"] for record in other.records("metrics.jsonl")]
    difference = run.difference(other, "")
    print(f"preemptions {PREEMPTIONS}, steps lost {sum(lost)}, largest difference {difference:.3g}")
    print("ends at steps", [end["step"] for end in ends], "load", os.getloadavg())
    assert difference == 0.0
