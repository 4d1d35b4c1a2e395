"""A collective of the script's own inside a step is told of, on one rank too."""

import pytest

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
import torch
import torch.distributed.nn
from torch.utils.data import TensorDataset
from launcher import Run

def main(run):
    samples = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
    job = run.prepare(
        model=lambda: torch.nn.Linear(8, 4),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
        train=TensorDataset(samples), global_batch=16, micro_batch=4, epochs=1,
    )
    for step in job:
        for (x,) in step:
            own = job.model(x)
            every = {EVERY}
            step.backward((own @ every.T).square().sum(), count=len(x))

Run.start(main)
"""
GATHERED = "torch.cat(torch.distributed.nn.all_gather(own))"
TOLD = "the loop calls a collective of its own"


@pytest.mark.parametrize(
    ("strategy", "count", "every", "times"),
    [
        ("single", "1", GATHERED, 1),
        ("ddp", "2", GATHERED, 1),
        ("ddp", "2", "own", 0),
        ("zero2", "2", GATHERED, 1),
        ("zero2", "2", "own", 0),
        ("fsdp", "2", "own", 0),
    ],
)
def test_it_is_told_once(strategy, count, every, times, launch, run):
    to = ("--nproc-per-node", count, "--strategy", strategy, "--run-dir", str(run.path))
    launched = launch(*to, launch.script(SCRIPT.replace("{EVERY}", every)))
    assert launched.wait(90) == 0, launched.stderr
    assert launched.stderr.count(TOLD) == times
