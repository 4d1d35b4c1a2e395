"""Runs with a step in which nothing counts, as a resume's first; rank 0 writes what came of them.

usage: empty_worker.py OUT STRATEGIES
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from task import Flag, make_job, weights_of

from checkpointing import CheckpointStore
from launcher.contract.environment import RankEnvironment
from launcher.training.loop.job import Preempted
from strategies import EMA, ConfigError, process_groups
from strategies.boundary import notice_rounds

torch.set_num_threads(1)
out = Path(sys.argv[1])
environment = RankEnvironment.from_environ(os.environ)
KEYS = ("fp32", "ema", "exp_avg")
EMPTY = 2
told = {}


def train(job, steps, *, empty=(EMPTY,)):
    """As task.train, without a label that counts in some steps."""
    notice_rounds.FINISH_S = math.inf  # a busy machine must not give a step up
    flag, last = cast(Flag, job.run.preemption), job.step + steps
    flag.requested = False
    try:
        for step in job:
            for tokens, labels, _ in step:
                if step.number in empty:
                    labels = torch.full_like(labels, -100)
                # The mean over nothing is no number, and its gradient is zero.
                loss = F.cross_entropy(job.model(tokens), labels)
                count = (labels != -100).sum()
                step.backward(loss * count, count=count)
            flag.requested = step.number + 2 == last
    except Preempted:
        return


with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    for strategy in sys.argv[2].split(","):
        name = f"{strategy}-{ranks.world_size}"
        folder = out / name
        options = {"ema": EMA(decay=0.9), "save_every": "1 steps", "keep": 100, "log_every": 1}
        for steps in (EMPTY, 4):
            train(make_job(ranks, strategy, folder, **options), steps)
        if ranks.is_coordinator:
            states = {s: dict(weights_of(folder, s, KEYS)) for s in (2, 3, 6)}
            torch.save(states, out / f"{name}.pt")
            with CheckpointStore(folder / "checkpoints").open(3) as reader:
                told[f"state {name}"] = reader.manifest.state["empty_steps"]
        job = make_job(ranks, strategy, out / f"never-{name}")
        try:
            train(job, 20, empty=range(100))
        except ConfigError as error:
            told[f"never {name}"] = str(error)
        job.run.lockstep.stay()
    if ranks.is_coordinator:
        (out / f"told-{ranks.world_size}.json").write_text(json.dumps(told))
