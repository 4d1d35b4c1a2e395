"""Train a small network on scikit-learn's handwritten digits, the whole way a run goes.

relaunch --nproc-per-node 2 --strategy ddp scripts/train_digits.py
python scripts/train_digits.py                       (one process, the same curve)
"""

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from launcher import Run
from strategies import EarlyStopping, schedules


class Net(nn.Module):
    """A small convolutional network with dropout: 64 pixels in, 10 digits out.

    A step of the convolution instead of max pooling: with two values equal up to rounding, the
    larger of them is another one in another order of sums, and the gradient takes another way.
    """

    def __init__(self, channels: int = 32, width: int = 96) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.GELU()),
                nn.Sequential(nn.Conv2d(channels, channels, 3, stride=2, padding=1), nn.GELU()),
            ]
        )
        self.hidden = nn.Linear(channels * 16, width)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map pixels (n, 64) to logits (n, 10)."""
        x = x.view(-1, 1, 8, 8)
        for block in self.blocks:
            x = block(x)
        return self.head(self.dropout(F.gelu(self.hidden(self.dropout(x.flatten(1))))))


def digits() -> TensorDataset:
    """Return 1797 pairs of pixels in [0, 1], shape (64,), and a digit."""
    data = load_digits()
    return TensorDataset(
        torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    )


def measure(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    """Return loss and accuracy, one value a sample."""
    x, y = batch
    logits = model(x)
    return {
        "loss": F.cross_entropy(logits, y, reduction="none"),
        "accuracy": logits.argmax(-1) == y,
    }


def main(run: Run) -> None:
    """Split, train, validate, stop, export, test."""
    arguments = parse()
    train, val, test = run.split(digits(), (0.70, 0.15, 0.15))
    job = run.prepare(
        model=Net,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=arguments.lr),
        schedule=schedules.warmup(30).then(schedules.cosine(floor=0.05)),
        train=train,
        global_batch=96,
        micro_batch=32,
        epochs=arguments.epochs,
        save_every=arguments.save_every,
        stop=EarlyStopping("val/loss", mode="min", patience=arguments.patience),
        max_grad_norm=1.0,
    )
    for step in job:
        for x, y in step:
            loss = F.cross_entropy(job.model(x), y, reduction="sum")
            step.backward(loss, count=len(y))
        if step.evaluation_due:
            step.evaluate(val, measure)
    job.export("best")
    job.test(test, measure)


def parse() -> argparse.Namespace:
    """Read the script's own arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--patience", type=int, default=6)
    parser.add_argument("--save-every", default="100 steps")
    return parser.parse_args()


if __name__ == "__main__":
    Run.start(main)
