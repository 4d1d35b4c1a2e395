"""Two runs in one process, a step of each in turn; rank 0 writes the final weights of both."""

import os
import sys
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from task import Flag, make_job, train, weights_of

from launcher.contract.environment import RankEnvironment
from launcher.training.loop.job import Preempted
from strategies import process_groups

torch.set_num_threads(1)
out = Path(sys.argv[1])
environment = RankEnvironment.from_environ(os.environ)
STEPS = 6
RUNS = {"ddp": {"micro_batch": 4}, "fsdp": {"micro_batch": 10, "max_grad_norm": None}}


def one_step_after_the_other(job):
    flag = cast(Flag, job.run.preemption)
    try:
        for step in job:
            for tokens, labels, weights in step:
                losses = F.cross_entropy(job.model(tokens), labels, reduction="none")
                step.backward((losses * weights).sum(), count=weights.sum())
            flag.requested = step.number + 2 == STEPS
            yield
    except Preempted:
        assert job.step == STEPS


with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    for name, recipe in RUNS.items():
        train(make_job(ranks, name, out / f"{name}-alone", **recipe), STEPS)
    both = [
        one_step_after_the_other(make_job(ranks, name, out / f"{name}-together", **recipe))
        for name, recipe in RUNS.items()
    ]
    while both:
        both = [run for run in both if next(run, StopIteration) is not StopIteration]
    if ranks.is_coordinator:
        for name in RUNS:
            alone, together = (
                dict(weights_of(out / f"{name}-{how}", STEPS, ("fp32", "exp_avg", "exp_avg_sq")))
                for how in ("alone", "together")
            )
            assert alone.keys() == together.keys()
            assert all(torch.equal(alone[k], together[k]) for k in alone), name
        (out / "equal").touch()
