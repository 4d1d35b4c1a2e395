"""The training of this benchmark with relaunch: nothing in it is about preemptions."""

import torch
import torch.nn.functional as F
from task import (
    EPOCHS,
    GLOBAL_BATCH,
    LR,
    MAX_GRAD_NORM,
    RANKS,
    StepFile,
    arguments,
    net,
    samples,
    write_final,
)
from torch.utils.data import TensorDataset

from launcher import Run

given = arguments()


def main(run: Run) -> None:
    every = given.save_every
    job = run.prepare(
        model=lambda: net(given.width),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0),
        train=TensorDataset(*samples(given.steps, given.width)),
        global_batch=GLOBAL_BATCH,
        micro_batch=GLOBAL_BATCH // RANKS,
        epochs=EPOCHS,
        max_grad_norm=MAX_GRAD_NORM,
        save_every=every if every == "auto" else f"{every} steps",
    )
    taken = StepFile(given.folder)
    for step in job:
        for x, y in step:
            step.backward(F.cross_entropy(job.model(x), y, reduction="sum"), count=len(y))
        taken.add(step.number + 1)
    write_final(given.folder, job.model)


if __name__ == "__main__":
    Run.start(main)
