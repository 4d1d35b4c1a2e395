"""Layers whose order in the forward, and so in the backward, follows the samples."""

import torch
from torch import nn

from launcher import Run


class Swapping(nn.Module):
    """Two layers of one shape; which comes first depends on the first sample."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.one, self.other
        if float(x[0].sum()) > 0:
            first, second = second, first
        out: torch.Tensor = self.head(torch.tanh(second(torch.tanh(first(x)))))
        return out


def main(run: Run) -> None:
    """Train eight steps."""
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(96, 8, generator=drawn)
    job = run.prepare(
        model=Swapping,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05),
        train=torch.utils.data.TensorDataset(x, x[:, :1] * x[:, 1:2]),
        global_batch=24,
        micro_batch=3,
        epochs=2,
    )
    for step in job:
        for x_, y in step:
            step.backward((job.model(x_) - y).square().sum(), count=len(y))


if __name__ == "__main__":
    Run.start(main)
