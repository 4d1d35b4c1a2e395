"""A run on a stream that keeps its position itself; each rank writes down what it is given."""

import argparse
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from launcher import Run

parser = argparse.ArgumentParser()
parser.add_argument("--leave-at", type=int, default=0)
parser.add_argument("--whole", action="store_true", help="do not split it by the ranks")
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--kind", default="plain")
parser.add_argument("--micro-batch", type=int, default=2)
arguments = parser.parse_args()


class Numbers:
    """Numbers of one rank, 10 in each pass, and one drawn for each."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.position = 0
        self.epoch = 0
        self.begin = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self.begin = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "more": (self.epoch, torch.arange(3), b"x")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert isinstance(state["more"], tuple)
        assert state["more"][2] == b"x"
        assert self.epoch == state["more"][0]
        self.begin = state["position"]

    def __iter__(self) -> Iterator[torch.Tensor]:
        for position in range(self.begin, 10):
            self.position = position + 1
            number = self.epoch * 1000 + position * self.world_size + self.rank
            yield torch.tensor([number, random.random()], dtype=torch.float64)


class NeedsMore(Numbers):
    def state_dict(self, num_samples: int) -> dict[str, Any]:  # type: ignore[override]
        return {"position": num_samples}


class Unsaved(Numbers):
    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "lock": object()}


class Seekable:
    def seek(self, position: int) -> None:
        self.position = position

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            yield torch.tensor([float(self.position), 0.0], dtype=torch.float64)
            self.position += 1


def main(run: Run) -> None:
    ranks = run.ranks
    part = (0, 1) if arguments.whole else (ranks.rank, ranks.world_size)
    kinds = {"plain": Numbers, "needs more": NeedsMore, "unsaved": Unsaved}
    train: Any = Seekable() if arguments.kind == "seekable" else kinds[arguments.kind](*part)
    job = run.prepare(
        model=lambda: nn.Linear(1, 1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        train=train,
        global_batch=8,
        micro_batch=arguments.micro_batch,
        steps=6,
        evaluate_every="100 steps",
        workers=arguments.workers,
        track=[],
    )
    seen = Path(f"seen-{ranks.rank}.jsonl")
    for step in job:
        for n, batch in enumerate(step):
            leaves = step.number + 1 == arguments.leave_at and ranks.is_coordinator
            step.backward(job.model(batch[:, :1].float()).sum(), count=len(batch))
            with seen.open("a") as file:
                print(json.dumps([step.number, n, batch.tolist()]), file=file)
            if leaves and n == 0:
                os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    Run.start(main, seed=5)
