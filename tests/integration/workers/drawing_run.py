"""A run whose data set and whose collate function draw; each rank writes down what it is given."""

import argparse
import json
import multiprocessing
import os
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from launcher import Run

parser = argparse.ArgumentParser()
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--start", default="")
parser.add_argument("--persistent", action="store_true")
parser.add_argument("--leave-at", type=int, default=0)
arguments = parser.parse_args()


def draw() -> list[float]:
    return [torch.rand(()).item(), float(np.random.rand()), random.random()]


class Noisy:
    """Samples of one number, with three drawn by each of the streams."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[int, list[float]]:
        return index, draw()


def collate(samples: list[tuple[int, list[float]]]) -> dict[str, Any]:
    indices = torch.tensor([index for index, _ in samples])
    drawn = [drawn for _, drawn in samples]
    return {"index": indices, "drawn": drawn, "collated": draw(), "reader": os.getpid()}


def init(worker_id: int) -> None:
    torch.rand(worker_id)  # what a worker draws for itself changes no sample
    assert isinstance(torch.utils.data.get_worker_info().dataset, Noisy | Subset)
    Path(f"init-{os.environ.get('RANK', 0)}-{worker_id}").touch()


class Book:
    """What this rank was given, one line each."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def write(self, what: str, step: int, batch: dict[str, Any]) -> None:
        for index, drawn in zip(batch["index"].tolist(), batch["drawn"], strict=True):
            self._line([what, step, index], drawn)
        self._line([f"{what}, collate", step, min(batch["index"].tolist())], batch["collated"])

    def model(self, what: str, step: int, micro_batch: int) -> None:
        self._line([what, step, micro_batch], draw())

    def _line(self, key: list[Any], value: list[float]) -> None:
        print(json.dumps([key, value]), file=self._file, flush=True)


def main(run: Run) -> None:
    book = Book(Path(f"seen-{os.getpid()}.jsonl"))
    train, val = Noisy(48), Subset(Noisy(100), range(90, 99))

    job = run.prepare(
        model=lambda: nn.Linear(1, 1),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
        train=train,
        global_batch=12,
        micro_batch=3,
        epochs=2,
        evaluate_every="2 steps",
        workers=arguments.workers,
        persistent=arguments.persistent,
        worker_init=init if arguments.workers else None,
        collate=collate,
        track=[],
    )
    readers: list[set[int]] = []
    """The processes that have read each evaluation."""

    def measure(number: int, model: nn.Module, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        book.model("measure", number, min(batch["index"].tolist()))
        book.write("val", number, batch)
        readers[-1].add(batch["reader"])
        return {"loss": model(batch["index"][:, None].float()).flatten()}

    for step in job:
        for batch in step:
            first = min(batch["index"].tolist())
            book.model("model", step.number, first)
            book.write("train", step.number, batch)
            inputs = batch["index"][:, None].float()
            step.backward(job.model(inputs).sum(), count=len(inputs))
        if step.evaluation_due:
            readers.append(set())
            before = torch.get_rng_state()
            step.evaluate(val, partial(measure, step.number))
            assert torch.equal(torch.get_rng_state(), before)
        if step.number + 1 == arguments.leave_at and run.ranks.is_coordinator:
            os.kill(os.getpid(), signal.SIGTERM)
    each_its_own = arguments.workers and not arguments.persistent
    assert len(set().union(*readers)) == sum(map(len, readers)) or not each_its_own
    assert readers == readers[:1] * len(readers) or each_its_own
    assert (os.getpid() in readers[0]) == (arguments.workers == 0)


if __name__ == "__main__":
    if arguments.start:
        multiprocessing.set_start_method(arguments.start)
    Run.start(main, seed=5)
