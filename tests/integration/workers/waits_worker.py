"""Counts the waits for a device in the steps of a run, and the programs that it starts; rank 0
writes what was found.

usage: waits_worker.py OUT STRATEGIES
"""

import json
import math
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from task import Normed, Samples, make_job, measured
from torch import nn
from waits import Waits

from launcher.contract.environment import RankEnvironment
from launcher.training.loop.steps import step as step_module
from strategies import EMA, Penalty, process_groups
from strategies.boundary import notice_rounds
from strategies.parallel.calls.gradient_watch import WATCHED

FIRST = 1 + WATCHED
"""The step that is counted: a step has at least one micro-batch of this rank."""

started = []


def note_program(event, arguments):
    if event in ("subprocess.Popen", "os.posix_spawn", "os.exec"):
        started.append(os.path.basename(os.fsdecode(arguments[0])))
    elif event == "os.system":
        started.append(os.fsdecode(arguments[0]))


sys.addaudithook(note_program)
torch.set_num_threads(1)
notice_rounds.FINISH_S = math.inf
out = Path(sys.argv[1])
environment = RankEnvironment.from_environ(os.environ)
told = {}


class WithScalar(Normed):
    """BatchNorms, and a parameter of no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens) * self.scale


def measure(model, batch):
    tokens, labels, weights = batch
    return measured(model(tokens), labels, weights)


with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    for strategy in sys.argv[2].split(","):
        options = {"ema": EMA(decay=0.9), "penalty": Penalty(l1=1e-6, l2=1e-6)}
        job = make_job(ranks, strategy, out / strategy, model=WithScalar, **options)
        # A count that is on a device: here it is only said to be.
        step_module._is_on_host = lambda count: False
        in_step, in_micro_batches, in_evaluation = Waits(), Waits(), Waits()
        for step in job:
            if step.number < FIRST:  # looks for mistakes, at buffers and gradients
                for tokens, labels, weights in step:
                    losses = F.cross_entropy(job.model(tokens), labels, reduction="none")
                    step.backward((losses * weights).sum(), count=weights.sum())
                continue
            if step.number > FIRST:
                break
            with in_step:
                for tokens, labels, weights in step:
                    losses = F.cross_entropy(job.model(tokens), labels, reduction="none")
                    with in_micro_batches:
                        step.backward((losses * weights).sum(), count=weights.sum())
            with in_evaluation:
                step.evaluate(Samples(40), measure)
        told[strategy] = {
            "step": dict(in_step.found),
            "micro-batches": dict(in_micro_batches.found),
            "evaluation": dict(in_evaluation.found),
        }
        job.run.lockstep.stay()
    if ranks.is_coordinator:
        (out / "programs.json").write_text(json.dumps(started))
        (out / f"told-{ranks.world_size}.json").write_text(json.dumps(told))
