"""With --exact: a kernel whose result varies is refused before the first step, by name."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)
SCRIPT = """
import os
import torch
from launcher import Run
from torch import nn

calls = [0]
library = torch.library.Library("planted", "DEF")
library.define("varies(Tensor x) -> Tensor")

def kernel(x):
    calls[0] += 1
    return x + (calls[0] * 1e-6 if os.environ["RANK"] == "1" else 0.0)

library.impl("varies", kernel, "CompositeExplicitAutograd")

class Noise(nn.Module):
    def forward(self, x):
        return x + torch.ops.planted.varies(x.detach())

def main(run):
    job = run.prepare(
        model=lambda: nn.Sequential(nn.Linear(4, 8), NOISE, nn.Linear(8, 1)),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        train=torch.utils.data.TensorDataset(torch.randn(64, 4)),
        global_batch=8, micro_batch=2, epochs=1,
    )
    for step in job:
        for (x,) in step:
            loss = job.model(x).square().sum()
            step.backward(loss, count=len(x))
    print("ended at", job.step, calls[0], flush=True)

Run.start(main)
"""


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero3"])
def test_a_kernel_that_varies_on_one_rank_is_named(
    launch: Callable[..., Any], strategy: str
) -> None:
    script = launch.script(SCRIPT.replace("NOISE", "Noise()"))  # type: ignore[attr-defined]
    launched = launch("--exact", "--strategy", strategy, "--nproc-per-node", "2", script)
    assert launched.wait(100) == 2, launched.stderr
    said = launched.stderr
    assert "--exact needs kernels that return the same bits each time" in said
    assert "planted.varies.default in the forward of 1 returned two results" in said
    assert "ended at" not in launched.stdout


def test_it_is_looked_at_once_and_only_with_exact(launch: Callable[..., Any]) -> None:
    script = launch.script(SCRIPT.replace("NOISE", "Noise()"))  # type: ignore[attr-defined]
    launched = launch("--strategy", "ddp", "--nproc-per-node", "1", script)
    assert launched.wait(100) == 0, launched.stderr
    assert "ended at 8 32" in launched.stdout
    launched = launch(
        "--exact", "--strategy", "ddp", "--nproc-per-node", "1", "--run-dir", "x", script
    )
    assert launched.wait(100) == 0, launched.stderr
    assert "ended at 8 33" in launched.stdout, "the first micro-batch alone is repeated"
