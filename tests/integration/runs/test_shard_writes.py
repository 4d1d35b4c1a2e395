"""Hooks on gradients, and writes to weights in a loop or a forward: right, or refused by name."""

from collections.abc import Callable
from typing import Any

import pytest

SLOW = pytest.mark.slow

SCRIPT = """
import sys
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run

WHAT = sys.argv[1]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 4)
        self.mean = nn.Parameter(torch.zeros(6), requires_grad=False)
        if WHAT == "hook in the model":
            self.head.weight.register_hook(lambda grad: grad.clamp(-0.1, 0.1))

    def forward(self, x):
        h = self.body(x)
        with torch.no_grad():
            if WHAT == "forward":
                self.head.weight.copy_(F.normalize(self.head.weight, dim=1))
            if WHAT == "forward, data":
                self.head.weight.data.mul_(0.5)
            if WHAT == "forward, data set":
                self.head.weight.data = F.normalize(self.head.weight.data, dim=1)
            if WHAT == "forward, frozen":
                self.mean.lerp_(h.mean(0), 0.1)
        return self.head(h - self.mean)

def main(run):
    x = torch.randn(16, 4)
    job = run.prepare(
        model=Net, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), train=TensorDataset(x, x),
        global_batch=8, micro_batch=4, epochs=2,
    )
    if WHAT == "hook in the loop":
        job.model.head.weight.register_hook(lambda grad: grad * 0.5)
    for step in job:
        for x, y in step:
            out = job.model.forward(x) if step.number % 2 else job.model(x)
            step.backward((out - y).square().sum(), count=len(x))
        with torch.no_grad():
            if WHAT == "clamp":
                for p in job.model.parameters():
                    p.clamp_(-0.1, 0.1)
                assert all(float(p.abs().max()) < 0.11 for p in job.model.parameters())
            if WHAT == "data set":
                job.model.head.weight.data = job.model.head.weight.data.clamp(-0.1, 0.1)

Run.start(main)
"""

HOOK = "head.weight has a hook on its gradient"
FORWARD = "head.weight was written to in the model's forward"


@pytest.mark.parametrize(
    ("num_ranks", "what", "words"),
    [
        (2, "hook in the model", HOOK),
        pytest.param(1, "hook in the loop", HOOK, marks=SLOW),
        (2, "forward", FORWARD),
        pytest.param(1, "forward, data", FORWARD, marks=SLOW),
        pytest.param(2, "forward, data set", FORWARD, marks=SLOW),
        pytest.param(2, "forward, frozen", "mean was written to in the model's", marks=SLOW),
        pytest.param(2, "data set", "head.weight.data was set", marks=SLOW),
    ],
)
def test_what_shards_would_lose_is_refused(
    num_ranks: int, what: str, words: str, launch: Callable[..., Any]
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    launched = launch("--nproc-per-node", str(num_ranks), "--strategy", "fsdp", script, what)
    assert launched.wait(110) == (1 if what == "data set" else 2), launched.stderr
    assert words in launched.stderr
    assert "Traceback" not in launched.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "what"),
    [("fsdp", "clamp"), ("fsdp", "nothing"), ("ddp", "hook in the model"), ("ddp", "forward")],
)
def test_what_the_sentences_name_is_trained(
    strategy: str, what: str, launch: Callable[..., Any]
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    launched = launch("--nproc-per-node", "2", "--strategy", strategy, script, what)
    assert launched.wait(110) == 0, launched.stderr
