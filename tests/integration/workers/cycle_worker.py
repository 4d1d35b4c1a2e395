"""Schedulers of torch that cycle momentum or betas, under several strategies.

Rank 0 writes the final weights, and what the optimizer's groups held at the end.

usage: cycle_worker.py OUT STRATEGY[+STRATEGY],...
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from task import make_job, train, weights_of
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from launcher.contract.environment import RankEnvironment
from strategies import process_groups, torch_schedule

torch.set_num_threads(1)
STEPS = 10


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-3, eps=1e-6)


def one_cycle(cycles):
    return lambda o: OneCycleLR(o, 5e-3, total_steps=13, cycle_momentum=cycles)


def triangle(cycles):
    return lambda o: CyclicLR(o, 0.01, 0.05, step_size_up=3, cycle_momentum=cycles)


CASES = {"adam": (adam, one_cycle), "sgd": (sgd, triangle)}

out, strategies = Path(sys.argv[1]), sys.argv[2].split(",")
environment = RankEnvironment.from_environ(os.environ)
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    for case, (optimizer, schedule) in CASES.items():
        for named in strategies:
            cycles = not named.startswith("still-")
            folder = out / f"run-{case}-{named}"
            pieces = named.removeprefix("still-").split("+")
            for strategy in pieces:
                job = make_job(
                    ranks,
                    strategy,
                    folder,
                    optimizer=optimizer,
                    schedule=torch_schedule(schedule(cycles)),
                    epochs=4,
                )
                train(job, STEPS // len(pieces))
            if ranks.is_coordinator:
                weights = dict(weights_of(folder, STEPS, ("fp32",)))
                save_file(weights, out / f"{case}-{named}.safetensors")
                (group, *_) = job._strategy.param_groups
                held = group["betas"][0] if case == "adam" else group["momentum"]
                (out / f"{case}-{named}.json").write_text(json.dumps([group["lr"], held]))
