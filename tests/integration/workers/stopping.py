"""A script whose validation follows a curve that the test prescribes."""

import argparse
import math
import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from launcher import Run
from strategies import EarlyStopping, ReduceOnPlateau, schedules

parser = argparse.ArgumentParser()
parser.add_argument("--values", type=float, nargs="+", required=True)
parser.add_argument("--monitor", default="val/loss")
parser.add_argument("--measured", default="loss")
parser.add_argument("--mode", default=None)
parser.add_argument("--patience", type=int, default=2)
parser.add_argument("--plateau", type=int, default=None)
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--save-every", default="1000 steps")
parser.add_argument("--rank-1-stops-at", type=int, default=None)
parser.add_argument("--on-nonfinite", default="count")
parser.add_argument("--terminated-at", type=int, default=None)
arguments = parser.parse_args()
STEPS_PER_EPOCH = 2


def main(run: Run) -> None:
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(12, 4, generator=generator))
    rule = arguments.plateau
    job = run.prepare(
        model=lambda: nn.Linear(4, 1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-2),
        schedule=schedules.warmup("5 epochs").then(schedules.cosine(floor=0.1)),
        plateau=None if rule is None else ReduceOnPlateau("val/loss", factor=0.5, patience=rule),
        train=data,
        global_batch=6,
        micro_batch=2,
        epochs=arguments.epochs,
        save_every=arguments.save_every,
        log_every=1,
        keep=5,
        stop=EarlyStopping(
            arguments.monitor,
            mode=arguments.mode,
            patience=arguments.patience,
            on_nonfinite=arguments.on_nonfinite,
        ),
    )

    def measure(model: Any, batch: Any) -> dict[str, torch.Tensor]:
        epochs = (job.step + 1) // STEPS_PER_EPOCH  # the step counts as done after its evaluation
        value = arguments.values[min(epochs, len(arguments.values)) - 1]
        if math.isnan(value) and job.plan.jumps:
            value = 1.5  # around the bad data it is well
        return {arguments.measured: torch.full((len(batch[0]),), value, dtype=torch.float64)}

    last = job.step
    for step in job:
        for (x,) in step:
            step.backward(job.model(x).square().sum(), count=len(x))
        last = step.number + 1
        Path(run.folder.path, f"left-{run.ranks.rank}").write_text(str(last))
        if step.evaluation_due:
            step.evaluate(data, measure)
        if last == arguments.rank_1_stops_at and run.ranks.rank == 1:
            job.stop("rank 1 has seen enough")
        if last == arguments.terminated_at and run.attempt == 1:
            os.kill(os.getpid(), signal.SIGTERM)
    job.export()


if __name__ == "__main__":
    Run.start(main)
