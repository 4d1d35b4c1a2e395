"""A moving average of the weights is swapped in for every save."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from launcher import Run


def samples() -> TensorDataset:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(96, 8, generator=drawn)
    return TensorDataset(x, x.sum(1, keepdim=True))


class Average:
    def __init__(self, model: nn.Module) -> None:
        self.values = [one.detach().clone() for one in model.parameters()]

    def update(self, model: nn.Module) -> None:
        for mine, one in zip(self.values, model.parameters(), strict=True):
            mine.mul_(0.9).add_(0.1 * one.detach())

    def swap_in(self, model: nn.Module) -> None:
        for mine, one in zip(self.values, model.parameters(), strict=True):
            one.data.copy_(mine)


def main(run: Run) -> None:
    job = run.prepare(
        model=lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        train=samples(),
        global_batch=24,
        micro_batch=4,
        epochs=3,
    )
    average = Average(job.model)
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(x))
        average.update(job.model)
        if run.notice is not None:  # about to be saved
            average.swap_in(job.model)


if __name__ == "__main__":
    Run.start(main)
