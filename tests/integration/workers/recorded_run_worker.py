"""A run with something of all that a checkpoint holds: one version writes it, others resume it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from launcher import Run
from strategies import EMA, EarlyStopping, schedules

STEPS = 8


class Net(nn.Module):
    """Matrices, vectors and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10, bias=False)  # BatchNorm would leave it rounding for gradient
        self.norm = nn.BatchNorm1d(10)
        self.last = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 6) -> (N, 3)."""
        out: torch.Tensor = self.last(torch.relu(self.norm(self.first(x))))
        return out


@dataclass
class Counter:
    """An object of the script itself."""

    seen: int = 0

    def state(self) -> dict[str, Any]:
        """Return JSON and tensors."""
        return {"seen": self.seen, "tensor": torch.tensor([1.5, 2.5])}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.seen = state["seen"]
        assert torch.equal(state["tensor"], torch.tensor([1.5, 2.5]))


def measure(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    """Return one loss a sample."""
    x, y = batch
    return {"loss": nn.functional.cross_entropy(model(x), y, reduction="none")}


def main(run: Run) -> None:
    """Train for STEPS steps; the counter sees each of them once."""
    numbers = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=numbers)
    data = TensorDataset(x, (x[:, 0] + x[:, 1] > 0).long())
    counter = Counter()
    job = run.prepare(
        model=Net,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01, amsgrad=True),
        schedule=schedules.warmup(3).then(schedules.cosine(floor=0.1)),
        train=data,
        global_batch=16,
        micro_batch=4,
        steps=STEPS,
        evaluate_every="2 steps",
        save_every="4 steps",
        stop=EarlyStopping("val/loss", mode="min", patience=100),
        ema=EMA(decay=0.9),
        objects={"counter": counter},
        max_grad_norm=1.0,
        track=(),
    )
    for step in job:
        for x, y in step:
            loss = nn.functional.cross_entropy(job.model(x), y, reduction="sum")
            step.backward(loss, count=len(y))
        counter.seen += 1
        if step.evaluation_due:
            step.evaluate(data, measure)
    assert counter.seen == STEPS, counter
    job.export("last")


if __name__ == "__main__":
    Run.start(main)
