"""A model that its own methods, or torch's, give other parts once it is built: refused by name."""

from collections.abc import Callable
from typing import Any

import pytest

SLOW = pytest.mark.slow

SCRIPT = """
import os, sys
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import TensorDataset
from launcher import Run

WHAT, STEP = sys.argv[1], int(sys.argv[2])

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.ones(6))
        self.spare = nn.Linear(2, 2).requires_grad_(False)

    def __setattr__(self, name, value):
        super().__setattr__(name, value)

    def forward(self, x):
        return self.head(self.body(x) * self.scale)

    def add(self):
        self.more = nn.Linear(6, 4)

    def replace(self):
        self.head = nn.Linear(6, 4)

    def renew(self):
        self.head.weight = nn.Parameter(torch.zeros(4, 6))

    def prune(self):
        prune.l1_unstructured(self.head, "weight", amount=0.5)

    def remove(self):
        del self.spare

    def nothing(self):
        self.head.weight = self.head.weight

def change(model):
    getattr(model, WHAT)()

def main(run):
    x = torch.randn(16, 4)
    job = run.prepare(
        model=Net, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), train=TensorDataset(x, x),
        global_batch=8, micro_batch=4, epochs=2,
    )
    if STEP < 0:
        change(job.model)
    for step in job:
        if step.number == STEP:
            change(job.model)
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(x))

Run.start(main)
"""


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=SLOW)])
def test_a_model_that_sets_attributes_by_itself_is_trained(
    strategy: str, launch: Callable[..., Any]
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    launched = launch("--nproc-per-node", "2", "--strategy", strategy, script, "nothing", "1")
    assert launched.wait(110) == 0, launched.stderr


@pytest.mark.parametrize(
    ("num_ranks", "strategy", "what", "words"),
    [
        (1, "single", "replace", "job.model.head = Linear(...): the model was built"),
        pytest.param(1, "single", "remove", "job.model: spare was removed", marks=SLOW),
        pytest.param(2, "ddp", "add", "job.model.more = Linear(...): the model was", marks=SLOW),
        pytest.param(2, "fsdp", "add", "job.model.more = Linear(...): the model was", marks=SLOW),
        pytest.param(2, "fsdp", "renew", "job.model.head.weight = Parameter", marks=SLOW),
        pytest.param(2, "zero2", "prune", "job.model.head.weight_orig = Parameter", marks=SLOW),
        pytest.param(2, "zero3", "replace", "job.model.head = Linear(...): the", marks=SLOW),
        pytest.param(2, "zero3", "remove", "job.model: spare was removed", marks=SLOW),
    ],
)
@pytest.mark.parametrize("step", [-1, pytest.param(2, marks=SLOW)])
def test_another_part_is_refused_with_the_line_that_made_it(
    num_ranks: int, strategy: str, what: str, words: str, step: int, launch: Callable[..., Any]
) -> None:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    options = ("--nproc-per-node", str(num_ranks), "--strategy", strategy)
    launched = launch(*options, script, what, str(step))
    assert launched.wait(110) == (2 if step < 0 else 1), launched.stderr
    assert words in launched.stderr
    assert "Do it in the function that is passed as model=." in launched.stderr
    assert "Traceback" not in launched.stderr
    # The model is as it was: the finished steps are saved.
    assert ("The 2 finished steps are saved" in launched.stderr) == (step > 0)
