"""Where weights are in shards, what only one rank calls is refused, by rank and layer."""

from collections.abc import Callable
from typing import Any

import pytest

SCRIPT = """
import os
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run
from strategies.collectives import agreed_gathers

agreed_gathers.AT_LEAST_S = 3.0
CASE, FIRST = os.environ["CASE"], int(os.environ["FIRST"])

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        # Larger than what ZeRO-3 keeps whole.
        self.first, self.layer = nn.Linear(8, 20000), nn.Linear(20000, 8)
        self.head = nn.Linear(8, 20000)
        self.num_forwards = 0

    def forward(self, x):
        self.num_forwards += 1
        hidden = torch.tanh(self.first(x))
        is_so = self.num_forwards >= FIRST and (CASE.startswith("all") or os.environ["RANK"] == "0")
        if is_so and CASE.endswith("read"):
            hidden = F.linear(hidden, self.layer.weight, self.layer.bias)
        elif is_so and CASE.endswith("left out"):
            hidden = hidden[:, :8] + 0 * self.layer(hidden)
        elif is_so:
            hidden = hidden[:, :8]
        else:
            hidden = self.layer(hidden)
        return self.head(hidden).mean(1)

def main(run):
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    job = run.prepare(
        model=Net, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), train=TensorDataset(x, x.sum(1)),
        global_batch=8, micro_batch=2, epochs=1,
    )
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(y))

Run.start(main)
"""
REMEDY = "Call the layer on every rank and multiply its output by 0 to leave it out"


def run_of(launch: Callable[..., Any], case: str, first: int) -> Any:
    script = launch.script(SCRIPT)  # type: ignore[attr-defined]
    environ = {"CASE": case, "FIRST": str(first)}
    return launch("--nproc-per-node", "2", "--strategy", "zero3", script, env=environ)


def test_a_weight_that_one_rank_alone_reads(launch: Callable[..., Any]) -> None:
    launched = run_of(launch, "read", 1)
    assert launched.wait(110) == 2, launched.stderr
    # Either rank may be the first to say so.
    assert "rank 0 reads layer.weight without a call of layer" in launched.stderr
    assert REMEDY in launched.stderr
    assert "terminate called" not in launched.stderr


@pytest.mark.slow
@pytest.mark.parametrize("case", ["skipped", "read"])
def test_a_layer_that_one_rank_alone_leaves_out_later(
    case: str, launch: Callable[..., Any]
) -> None:
    launched = run_of(launch, case, 4)
    assert launched.wait(110) == 1, launched.stderr
    assert "rank 0 calls head in the model's forward, where it calls layer in" in launched.stderr
    assert "and rank 1 has not done so within" in launched.stderr
    assert REMEDY in launched.stderr
    assert "terminate called" not in launched.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("case", "first"), [("all read", 1), ("left out", 3), ("all left out", 1)])
def test_what_all_ranks_do_and_the_remedy_train(
    case: str, first: int, launch: Callable[..., Any]
) -> None:
    launched = run_of(launch, case, first)
    assert launched.wait(110) == 0, launched.stderr


@pytest.mark.slow
def test_a_weight_that_all_ranks_read_but_later_only(launch: Callable[..., Any]) -> None:
    """DeepSpeed has fetched it for its layer, and lets it go before the backward."""
    launched = run_of(launch, "all read", 4)
    assert launched.wait(110) == 1, launched.stderr
    assert "uses the parameters of a layer without calling it" in launched.stderr


OFTEN = """
import os
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset
from launcher import Run

CASE = os.environ["CASE"]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(8, 8) for _ in range(2)), nn.Linear(8, 1)

    def forward(self, x):
        for _ in range(int(x[0, 0]) if CASE == "layers" else 1):
            for layer in self.layers:
                x = torch.tanh(layer(x))
        return self.head(x).squeeze(1)

def output(model, x, times):
    return sum(model(x) for _ in range(int(x[0, 0]) if CASE == times else 1))

def measure(model, batch):
    return {"loss": output(model, batch[0], "evaluation").square()}

def main(run):
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    x[:, 0] = torch.arange(32) % 3 + 1
    data = TensorDataset(x, x.sum(1))
    job = run.prepare(
        model=Net, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), train=data,
        global_batch=8, micro_batch=1, epochs=1, evaluate_every="1 steps",
    )
    for step in job:
        for x, y in step:
            loss = (output(job.model, x, "loss") - y).square().sum()
            other = job.model(0.5 * x).square().sum()
            if CASE != "left out of the loss" or x[0, 0] > 1:
                loss = loss + other
            step.backward(loss, count=len(y))
        if step.evaluation_due:
            step.evaluate(data, measure)

Run.start(main)
"""


@pytest.mark.parametrize(
    ("strategy", "case", "code"),
    [
        ("fsdp", "layers", 2),
        pytest.param("fsdp", "loss", 2, marks=pytest.mark.slow),
        ("fsdp", "evaluation", 1),
        ("zero3", "layers", 2),
        pytest.param("zero3", "loss", 2, marks=pytest.mark.slow),
        pytest.param("zero3", "left out of the loss", 2, marks=pytest.mark.slow),
    ],
)
def test_what_is_called_as_often_as_the_samples_say(
    strategy: str, case: str, code: int, launch: Callable[..., Any]
) -> None:
    script = launch.script(OFTEN)  # type: ignore[attr-defined]
    options = ("--nproc-per-node", "2", "--strategy", strategy)
    launched = launch(*options, script, env={"CASE": case})
    assert launched.wait(110) == code, launched.stderr
    assert "calls independent of the samples" in launched.stderr
