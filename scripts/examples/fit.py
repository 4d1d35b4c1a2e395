"""A run without a loop, its settings from a dataclass, a file and the command line.

relaunch --nproc-per-node 2 scripts/examples/fit.py --epochs=3 --width=32
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from launcher import Run
from strategies import EarlyStopping, schedules


@dataclass(frozen=True, kw_only=True)
class Config:
    lr: float = 1e-2
    width: int = 16
    epochs: int = 20


def samples() -> TensorDataset:
    """Return 600 points in 8 dimensions and which of the first three is the largest."""
    x = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, x[:, :3].argmax(-1))


def loss(model: Any, batch: Any) -> tuple[torch.Tensor, int]:
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="sum"), len(y)


def measure(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    x, y = batch
    out = model(x)
    return {"loss": F.cross_entropy(out, y, reduction="none"), "accuracy": out.argmax(-1) == y}


def main(run: Run) -> None:
    config = run.config(Config)
    train, val, test = run.split(samples(), (0.7, 0.15, 0.15))
    run.fit(
        model=lambda: nn.Sequential(
            nn.Linear(8, config.width), nn.GELU(), nn.Linear(config.width, 3)
        ),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=config.lr),
        schedule=schedules.warmup(10).then(schedules.cosine(floor=0.1)),
        train=train,
        validate=val,
        test=test,
        loss=loss,
        measure=measure,
        global_batch=32,
        micro_batch=16,
        epochs=config.epochs,
        stop=EarlyStopping("val/loss", patience=5),
    )


if __name__ == "__main__":
    Run.start(main)
