"""A run whose phases can be made long, and which says when each begins: see test_notices.py."""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from launcher import Run
from strategies import EarlyStopping

x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
y = x.sum(1, keepdim=True)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slow", default="", help="phase, or phase:number")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--patience", type=int, default=50)
    return parser.parse_args()


ASKED = options()


def slow(phase: str, number: int | None = None) -> None:
    """Be slow where that was asked for, in the first start only; a file says that it began."""
    name = phase if number is None else f"{phase}:{number}"
    if ASKED.slow != name or Path("over").exists():
        return
    Path(f"began-{phase}").touch()
    time.sleep(ASKED.seconds)


class Samples(Dataset[Any]):
    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> Any:
        slow("data", index)
        return x[index], y[index]


class Net(torch.nn.Module):
    """Counts its forwards in a buffer, as some models do."""

    def __init__(self) -> None:
        super().__init__()
        slow("build")
        self.inner = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 1))
        self.register_buffer("forwards", torch.zeros(()))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.forwards += 1
        result: torch.Tensor = self.inner(batch)
        return result


class Kept:
    """An object of the script's, whose restoring may take its time."""

    def state(self) -> dict[str, Any]:
        return {"kept": 1}

    def restore(self, state: Any) -> None:
        slow("restore")


def measure(model: Any, batch: Any) -> Any:
    slow("evaluation")
    return error(model, batch)


def measure_test(model: Any, batch: Any) -> Any:
    slow("test")
    return error(model, batch)


def error(model: Any, batch: Any) -> Any:
    samples, wanted = batch
    return {"loss": (model(samples) - wanted).square().mean(1)}


def main(run: Run) -> None:
    slow("script")
    job = run.prepare(
        model=Net,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        train=Samples(),
        global_batch=32,
        micro_batch=ASKED.micro_batch,
        steps=ASKED.steps,
        evaluate_every="5 steps",
        save_every="1000 steps",
        log_every=1,
        workers=ASKED.workers,
        stop=EarlyStopping("val/loss", patience=ASKED.patience, min_delta=1e9),
        objects={"kept": Kept()},
        track=[],
    )
    for step in job:
        for samples, wanted in step:
            loss = (job.model(samples) - wanted).square().sum()
            slow("step", step.number)
            slow("accumulation")
            step.backward(loss, count=len(samples))
        if ASKED.slow == "notice" and step.number == 3:
            Path("began-notice").touch()
            while run.notice is None:
                time.sleep(0.01)
            print(f"the script knows: {run.notice.cause}, {run.notice.left_s is None}")
        if step.evaluation_due:
            step.evaluate(TensorDataset(x, y), measure)
    job.export("last")
    job.test(TensorDataset(x, y), measure_test)


if __name__ == "__main__":
    Run.start(main)
