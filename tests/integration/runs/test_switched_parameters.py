"""A script that freezes a network in every second step: right, or refused before it is not."""

from collections.abc import Callable
from typing import Any

import pytest

SLOW = pytest.mark.slow

SCRIPT = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run

class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.made, self.judge = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.judge(self.made(x))

def main(run):
    x = torch.randn(16, 4)
    job = run.prepare(
        model=Gan, optimizer=lambda p: torch.optim.Adam(p, lr=0.1), train=TensorDataset(x, x),
        global_batch=8, micro_batch=4, epochs=2,
    )
    for step in job:
        for x, _ in step:
            of_judge = step.number % 2 == 1
            job.model.made.requires_grad_(not of_judge)
            job.model.judge.requires_grad_(of_judge)
            step.backward(job.model(x).square().sum(), count=len(x))

Run.start(main)
"""


@pytest.mark.parametrize(
    ("num_ranks", "strategy", "more"),
    [
        (1, "fsdp", ()),
        pytest.param(2, "ddp", (), marks=SLOW),
        pytest.param(2, "fsdp", (), marks=SLOW),
        pytest.param(1, "zero2", (), marks=SLOW),
        pytest.param(2, "zero3", (), marks=SLOW),
    ],
)
def test_networks_in_turns_are_refused_with_what_trains_them(
    num_ranks: int, strategy: str, more: tuple[str, ...], launch: Callable[..., Any]
) -> None:
    """What the sentence names is held by the runs of `test_own_loop_several.py`."""
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    launched = launch("--nproc-per-node", str(num_ranks), "--strategy", strategy, *more, script)
    assert launched.wait(110) == 2
    assert "the script has set requires_grad=False on judge.weight, judge.bias" in launched.stderr
    assert "with Resumable(model={...}, optimizer={...}, loader=...) around it" in launched.stderr
    assert "Traceback" not in launched.stderr


@pytest.mark.slow
def test_on_one_rank_that_holds_all_they_are_trained(launch: Callable[..., Any]) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    launched = launch("--nproc-per-node", "1", "--strategy", "single", script)
    assert launched.wait(110) == 0, launched.stderr
