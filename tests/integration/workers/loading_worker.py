"""A run whose data is read by loader workers: the engine's, and some of the script's own."""

import argparse
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, get_worker_info

from launcher import Run

parser = argparse.ArgumentParser()
parser.add_argument("--own", choices=("", "fork", "spawn", "forkserver"), default="")
parser.add_argument("--pause", type=float, default=0.0)
parser.add_argument("--die", choices=("", "once", "always", "of the notice"), default="")
arguments = parser.parse_args()

CHOSEN = 21
"""The sample at which a worker dies."""


class Points:
    """Points of a line, read slowly."""

    def __init__(self, count: int, die: str = "") -> None:
        self.count, self.die = count, die

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.die == "of the notice" and get_worker_info() is not None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the script undoes what shields it
        time.sleep(arguments.pause)
        if index == CHOSEN and (self.die == "always" or (self.die == "once" and is_first())):
            os._exit(7)
        x = torch.tensor([index / self.count, 1.0])
        return x, 3 * x[:1] - 1


def is_first() -> bool:
    try:
        Path("died").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def init(worker_id: int) -> None:
    Path(f"init-{os.environ['RANK']}-{worker_id}").touch()


def own_loader() -> "DataLoader[tuple[torch.Tensor, torch.Tensor]]":
    return DataLoader(
        Points(16),
        batch_size=4,
        num_workers=2,
        multiprocessing_context=arguments.own,
        persistent_workers=True,
        worker_init_fn=init,
        generator=torch.Generator().manual_seed(1),
    )


def main(run: Run) -> None:
    def measure(model, batch):
        x, y = batch
        return {"loss": ((model(x) - y) ** 2).flatten()}

    loader = own_loader() if arguments.own else None
    job = run.prepare(
        model=lambda: nn.Linear(2, 1),
        optimizer=lambda params: torch.optim.AdamW(params, lr=0.05),
        train=Points(48, arguments.die),
        global_batch=8,
        micro_batch=2,
        epochs=4,
        evaluate_every="1 epoch",
        save_every="100 steps",
        log_every=1,
        workers=2,
    )
    for step in job:
        for x, y in step:
            loss = ((job.model(x) - y) ** 2).sum()
            step.backward(loss, count=len(y))
        if loader is not None:
            assert sum(len(x) for x, _ in loader) == 16
        if step.evaluation_due:
            step.evaluate(Points(10), measure)
    job.test(Points(10), measure)


if __name__ == "__main__":
    Run.start(main)
