"""Splits its data with numpy's global generator, which the script does not seed."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from launcher import Run


def main(run: Run) -> None:
    """Write what was drawn, and train two steps."""
    chosen = np.random.permutation(64)[:32]
    drawn = [*chosen.tolist(), float(torch.rand(()))]
    job = run.prepare(
        model=lambda: nn.Linear(2, 1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        train=torch.utils.data.TensorDataset(torch.arange(64.0).reshape(32, 2)),
        global_batch=16,
        micro_batch=4,
        epochs=1,
    )
    drawn += [float(torch.rand(())), float(np.random.rand())]
    with Path(sys.argv[1], f"drawn-{run.ranks.world_size}-{run.ranks.rank}").open("a") as file:
        file.write(f"{drawn}\n")
    for step in job:
        for (x,) in step:
            step.backward(job.model(x).square().sum() * 1e-4, count=len(x))


if __name__ == "__main__":
    Run.start(main)
