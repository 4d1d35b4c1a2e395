"""One rank writes a file, and the script keeps its counter in the checkpoint."""

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from launcher import Run


def samples() -> TensorDataset:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(96, 8, generator=drawn)
    return TensorDataset(x, x.sum(1, keepdim=True))


class Counter:
    def __init__(self) -> None:
        self.number = 0

    def state(self) -> dict[str, int]:
        return {"number": self.number}

    def restore(self, state: dict[str, int]) -> None:
        self.number = state["number"]


def main(run: Run) -> None:
    counter = Counter()
    job = run.prepare(
        model=lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        train=samples(),
        global_batch=24,
        micro_batch=4,
        epochs=3,
        objects={"counter": counter},
    )
    for step in job:
        for x, y in step:
            weight = 1.0 / (1 + counter.number)
            step.backward(weight * (job.model(x) - y).square().sum(), count=len(x))
        counter.number += 1
    if run.ranks.is_coordinator:
        Path("done.txt").write_text(str(counter.number))


if __name__ == "__main__":
    Run.start(main)
