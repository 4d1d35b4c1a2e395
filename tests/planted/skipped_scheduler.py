"""Weight decay follows a scheduler that no checkpoint holds."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from launcher import Run
from strategies import Parameters


def samples() -> TensorDataset:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(96, 8, generator=drawn)
    return TensorDataset(x, x.sum(1, keepdim=True))


class DecaySchedule:
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.num_calls = 0

    def step(self) -> None:
        self.num_calls += 1
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.5 / self.num_calls


def main(run: Run) -> None:
    kept: list[torch.optim.Optimizer] = []

    def make(parameters: Parameters) -> torch.optim.Optimizer:
        kept.append(torch.optim.AdamW(parameters, lr=1e-2))
        return kept[-1]

    job = run.prepare(
        model=lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)),
        optimizer=lambda parameters: make(parameters),
        train=samples(),
        global_batch=24,
        micro_batch=4,
        epochs=3,
    )
    schedule = DecaySchedule(kept[-1])
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(x))
        schedule.step()


if __name__ == "__main__":
    Run.start(main)
