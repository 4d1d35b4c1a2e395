"""What scripts of tests share that look at saves: a small job, and this rank's writers."""

import os
import pathlib
import time
from typing import Any

import torch
from torch.utils.data import TensorDataset

from launcher import Job, Run, Step


def samples() -> TensorDataset:
    """Return 64 pairs, the same ones on every rank and in every start."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 8, generator=generator), torch.randn(64, 1, generator=generator)
    return TensorDataset(x, y)


def prepare(run: Run, *, save_every: str = "4 steps", **recipe: Any) -> Job:
    """Prepare one linear layer, with eight steps an epoch."""
    return run.prepare(
        model=lambda: torch.nn.Linear(8, 1),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        train=samples(),
        global_batch=8,
        micro_batch=4,
        save_every=save_every,
        **recipe,
    )


def train(job: Job, step: Step) -> None:
    for x, y in step:
        step.backward((job.model(x) - y).square().sum(), count=len(y))


def wait_for_save(job: Job, *steps: int) -> None:
    """Wait until the save in flight is written, where it is of one of the steps."""
    while job._checkpointer.saving_step in steps and not job._checkpointer.is_settled():
        time.sleep(0.01)


def writers() -> list[int]:
    """Return the processes that write checkpoints for this rank."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            mine = f"PPid:\t{os.getpid()}\n" in (entry / "status").read_text()
            if mine and b"writer_process" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def tell(signum: int) -> None:
    """Send a signal to the one writer that this rank has."""
    (pid,) = writers()
    os.kill(pid, signum)
