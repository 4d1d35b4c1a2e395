"""Sets a dropout's rate and a part's mode once, at step 3; a notice comes after step 5."""

import os
import signal
import sys

import torch
from torch import nn

from launcher import Run


def build() -> nn.Module:
    """Return the model."""
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.BatchNorm1d(8), nn.Linear(8, 1))


def main(run: Run) -> None:
    """Train eight steps."""
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=drawn)
    job = run.prepare(
        model=build,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05),
        train=torch.utils.data.TensorDataset(x, x[:, :1]),
        global_batch=16,
        micro_batch=8,
        epochs=2,
    )
    for step in job:
        if step.number == 3:
            job.model[1].p = 0.6
            for module in job.model.modules():
                if isinstance(module, nn.BatchNorm1d):
                    module.eval()
        for x_, y in step:
            step.backward((job.model(x_) - y).square().sum(), count=len(y))
        if step.number == 5 and "notice" in sys.argv:
            os.kill(os.getpid(), signal.SIGTERM)
        if step.evaluation_due:
            step.evaluate(
                torch.utils.data.TensorDataset(x[:8], x[:8, :1]),
                lambda model, batch: {"loss": (model(batch[0]) - batch[1]).square()[:, 0]},
            )


if __name__ == "__main__":
    Run.start(main)
