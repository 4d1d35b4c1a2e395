"""The samples come in the order of a set of names."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from launcher import Run


def samples() -> TensorDataset:
    names = {f"sample-{number}" for number in range(96)}
    numbers = torch.tensor([int(name.split("-")[1]) for name in names])
    x = torch.sin(torch.outer(numbers + 1.0, torch.arange(1.0, 9.0)))
    return TensorDataset(x, x.sum(1, keepdim=True))


def main(run: Run) -> None:
    job = run.prepare(
        model=lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)),
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
