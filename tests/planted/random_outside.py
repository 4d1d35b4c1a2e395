"""A mask from a generator that runs on from call to call."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from launcher import Run


def samples() -> TensorDataset:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(96, 8, generator=drawn)
    return TensorDataset(x, x.sum(1, keepdim=True))


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 1)
        self.drawn = torch.Generator().manual_seed(1)

    def forward(self, x: torch.Tensor) -> Any:
        keep = torch.rand(x.shape, generator=self.drawn) > 0.2
        return self.layer(x * keep)


def main(run: Run) -> None:
    job = run.prepare(
        model=lambda: Noisy(),
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
