"""Weights that one rank has changed alone end the run before they are saved."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpointing import CheckpointStore

SCRIPT = """
import json
import torch
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
        self.first.bias.requires_grad_(False)
        self.head.register_buffer("table", torch.zeros(2))
        self.head.register_buffer("own", torch.zeros(2))

    def forward(self, x):
        self.head.own += rank  # moved by each rank in its own way: told of, and not compared
        return self.head(self.first(x))

def main(run):
    x = torch.randn(64, 4)
    job = run.prepare(
        model=Net, optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        train=TensorDataset(x, x), global_batch=8, micro_batch=4, steps=48, log_every=1,
        save_every=f"{os.environ['SAVE']} steps",
    )
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))
        if step.number == 4 and rank == int(os.environ["ODD"]):
            with torch.no_grad():
                weight = getattr(job.model, os.environ["NAME"])
                getattr(weight, os.environ["KIND"])[1].add_(1e-3)

Run.start(main)
"""


@pytest.mark.parametrize(
    ("strategy", "name", "kind", "save_every"),
    [
        ("ddp", "head", "weight", 3),
        ("ddp", "head", "weight", 1000),
        ("ddp", "first", "bias", 3),
        ("zero2", "first", "bias", 3),  # which no step makes equal again
        ("zero2", "first", "bias", 1000),
        ("zero3", "head", "table", 3),  # a buffer
        ("fsdp", "head", "table", 1000),
    ],
)
def test_a_weight_changed_on_one_rank_is_named_before_it_is_saved(
    strategy: str,
    name: str,
    kind: str,
    save_every: int,
    launch: Callable[..., Any],
    tmp_path: Path,
) -> None:
    environ = {"SAVE": str(save_every), "ODD": "1", "NAME": name, "KIND": kind}
    launched = launch(
        *("--nproc-per-node", "2", "--strategy", strategy, "--run-dir", "run"),
        launch.script(SCRIPT),
        env=environ,
    )
    assert launched.wait() == 1
    # At the next save, or where that is far away, with the boundary after step 16.
    step = 6 if save_every == 3 else 17
    assert f"after step {step} rank 1 holds another {name}.{kind} than rank 0" in launched.stderr
    assert ("persistent=False" in launched.stderr) is (kind == "table")
    assert "Traceback" not in launched.stderr
    steps = CheckpointStore(tmp_path / "run" / "checkpoints").steps()
    assert steps == ([3] if save_every == 3 else [])
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["step"] for line in records) <= step


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "fsdp", "zero3"])
def test_ranks_that_do_the_same_are_left_alone(
    strategy: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    environ = {"SAVE": "7", "ODD": "-1", "NAME": "head", "KIND": "weight"}
    launched = launch(
        *("--nproc-per-node", "2", "--strategy", strategy, "--run-dir", "run"),
        launch.script(SCRIPT),
        env=environ,
    )
    assert launched.wait() == 0, launched.stderr
    assert CheckpointStore(tmp_path / "run" / "checkpoints").steps()[0] == 48
