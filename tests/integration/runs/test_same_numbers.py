"""The same numbers, however the one process came to be, and whatever else runs in it."""

import json
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


DRAWS = """
import json, os, random, signal, sys
import numpy as np
import torch
from torch.utils.data import TensorDataset
from launcher import Run

def drawn():
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]

def main(run):
    x = torch.ones(8, 4)
    job = run.prepare(
        model=lambda: torch.nn.Linear(4, 4), optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        train=TensorDataset(x, x), global_batch=4, micro_batch=2, epochs=2,
    )
    for step in job:
        if step.number == int(os.environ.get("STOP", -1)):
            os.kill(os.getpid(), signal.SIGTERM)
        before = drawn()
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(x))
        with open(f"{sys.argv[1]}/rank-{os.environ.get('RANK', 0)}.jsonl", "a") as file:
            file.write(json.dumps([step.number, before, drawn()]) + "\\n")

Run.start(main)
"""


def test_what_the_body_of_a_step_draws_is_the_same_on_every_rank_and_after_a_resume(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    script = launch.script(DRAWS)  # type: ignore[attr-defined]

    def seen(ranks: int, *stops: str) -> list[list[Any]]:
        folder = tmp_path / f"{ranks}-{len(stops)}"
        folder.mkdir()
        for stop in (*stops, "-1"):
            options = ("--nproc-per-node", str(ranks), "--run-dir", str(folder / "run"))
            launched = launch(*options, script, str(folder), env={"STOP": stop})
            assert launched.wait(110) == (0 if stop == "-1" else 75), launched.stderr
        files = [(folder / f"rank-{rank}.jsonl").read_text() for rank in range(ranks)]
        assert len(set(files)) == 1
        return [json.loads(line) for line in files[0].splitlines()]

    whole = seen(1)
    assert len({tuple(draws) for step in whole for draws in step[1:]}) == 2 * len(whole) == 8
    assert seen(1, "1") == whole
    assert seen(2) == whole
