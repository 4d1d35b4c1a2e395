"""The same numbers, however the one process came to be, and whatever else runs in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = str(Path(__file__).parents[1] / "workers" / "two_runs_worker.py")


@pytest.mark.timeout(240)
def test_two_runs_in_one_process_know_nothing_of_each_other(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    launched = launch("--nproc-per-node", "2", WORKER, str(tmp_path))
    assert launched.wait(200) == 0, launched.stderr
    assert (tmp_path / "equal").exists()


def test_plain_python_and_one_rank_under_relaunch_differ_in_no_bit(
    launch: Callable[..., Any], run: Any, small: str, undisturbed: Any
) -> None:
    launched = launch("--run-dir", str(run.path), small, env={"OMP_NUM_THREADS": "1"})
    assert launched.wait(100) == 0, launched.stderr
    assert run.difference(undisturbed) == 0.0
    mine, theirs = (seen.records("metrics.jsonl") for seen in (run, undisturbed))
    assert [(r["step"], r["loss"]) for r in mine] == [(r["step"], r["loss"]) for r in theirs]
