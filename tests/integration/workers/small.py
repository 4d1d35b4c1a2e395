"""A script as a user writes it, for runs that are killed, damaged and resumed."""

import argparse
import os
import time

import torch.nn.functional as F
from task import Awkward, Samples, adamw
from torch import nn

from launcher import Run
from strategies import EarlyStopping, schedules

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--pause", type=float, default=0.0)
parser.add_argument("--save-every", default="5 steps")
parser.add_argument("--global-batch", type=int, default=20)
parser.add_argument("--other-model", action="store_true")
parser.add_argument("--fail-at", type=int, default=-1)
parser.add_argument("--hang-at", type=int, default=-1)
parser.add_argument("--patience", type=int, default=4)
parser.add_argument("--slow-save", type=float, default=0.0)
parser.add_argument("--leave-step-early", action="store_true")
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--slow-evaluation", type=float, default=0.0)
arguments = parser.parse_args()


def measure(model, batch):
    tokens, labels, _ = batch
    logits = model(tokens)
    time.sleep(arguments.slow_evaluation)
    return {
        "loss": F.cross_entropy(logits, labels, reduction="none"),
        "accuracy": logits.argmax(-1) == labels,
    }


def slow_down_saves(seconds: float) -> None:
    """Let each sync of this process take some seconds more, as a busy file system does."""
    from checkpointing.storage.local_files import Files

    fsync = Files.fsync

    def slow(self, fd: int) -> None:
        time.sleep(seconds)
        fsync(self, fd)

    Files.fsync = slow


def other_model() -> nn.Module:
    model = Awkward()
    model.norm = nn.LayerNorm(38)
    model.extra = nn.Linear(3, 3)
    return model


def waits_for_ever() -> None:
    while True:
        time.sleep(1)


def main(run: Run) -> None:
    if arguments.slow_save:
        slow_down_saves(arguments.slow_save)
    job = run.prepare(
        model=other_model if arguments.other_model else Awkward,
        optimizer=adamw,
        schedule=schedules.warmup(5).then(schedules.cosine(floor=0.1)),
        train=Samples(47),
        global_batch=arguments.global_batch,
        micro_batch=4,
        epochs=arguments.epochs,
        save_every=arguments.save_every,
        log_every=1,
        keep=2,
        workers=arguments.workers,
        stop=EarlyStopping("val/loss", patience=arguments.patience),
        max_grad_norm=0.5,
    )
    for step in job:
        for tokens, labels, weights in step:
            losses = F.cross_entropy(job.model(tokens), labels, reduction="none")
            step.backward((losses * weights).sum(), count=weights.sum())
            if arguments.leave_step_early:
                break
        time.sleep(arguments.pause)
        first_attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if step.number == arguments.hang_at and run.ranks.rank == 1 and first_attempt:
            waits_for_ever()
        if step.number == arguments.fail_at and run.ranks.rank == 1:
            raise ValueError("the user's own mistake")
        if step.evaluation_due:
            step.evaluate(Samples(30), measure)
    job.export()
    job.test(Samples(30), measure)


if __name__ == "__main__":
    Run.start(main)
