"""A schedule, clipping, evaluations and early stopping."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from launcher import Run
from strategies import EarlyStopping, schedules


def samples() -> TensorDataset:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(96, 8, generator=drawn)
    return TensorDataset(x, x.sum(1, keepdim=True))


def measure(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    x, y = batch
    return {"loss": (model(x) - y).square().mean(1)}


def main(run: Run) -> None:
    job = run.prepare(
        model=lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        train=samples(),
        global_batch=24,
        micro_batch=4,
        epochs=3,
        schedule=schedules.warmup(3).then(schedules.cosine()),
        max_grad_norm=1.0,
        evaluate_every="2 steps",
        stop=EarlyStopping("val/loss", mode="min", patience=3),
    )
    for step in job:
        for x, y in step:
            step.backward((job.model(x) - y).square().sum(), count=len(x))
        if step.evaluation_due:
            step.evaluate(samples(), measure)
    job.export("best")


if __name__ == "__main__":
    Run.start(main)
