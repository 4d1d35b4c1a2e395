"""The forward keeps a running mean of its inputs and subtracts it."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from launcher import Run


def samples() -> TensorDataset:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(96, 8, generator=drawn)
    return TensorDataset(x, x.sum(1, keepdim=True))


class Centred(nn.Module):
    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 1)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> Any:
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return self.layer(x - self.mean)


def main(run: Run) -> None:
    job = run.prepare(
        model=lambda: Centred(),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        train=samples(),
        global_batch=24,
        micro_batch=4,
        epochs=3,
    )
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(x))


if __name__ == "__main__":
    Run.start(main)
