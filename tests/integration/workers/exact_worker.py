"""Exact steps of models that are awkward to sum, under several strategies.

Rank 0 writes the final weights. "hybrid" is fsdp on nodes of half the ranks each, or of one rank.

usage: exact_worker.py OUT STRATEGY,... MODEL,... PRECISION,...
"""

import os
import sys
from itertools import product
from pathlib import Path

import task  # type: ignore[import-not-found]
import torch
from safetensors.torch import save_file
from task import make_job, train, weights_of

from launcher.contract.environment import RankEnvironment
from strategies import EMA, Penalty, process_groups

STEPS = 12
torch.set_num_threads(1)
out = Path(sys.argv[1])
strategies, models, precisions = (argument.split(",") for argument in sys.argv[2:5])
environment = RankEnvironment.from_environ(os.environ)
world_size = environment.world_size
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=world_size
) as ranks:
    for name, precision, strategy in product(models, precisions, strategies):
        case = f"{name}-{precision}-{strategy}"
        hybrid = {
            "hybrid_shard": True,
            "local_world_size": 1 if world_size % 2 else world_size // 2,
        }
        folder = out / f"run-{case}-{world_size}"
        model = getattr(task, name)
        # Five micro-batches in a step, which no number of ranks divides.
        job = make_job(
            ranks,
            "fsdp" if strategy == "hybrid" else strategy,
            folder,
            model=model,
            precision=precision,
            exact=True,
            penalty=Penalty(l1=1e-5, l2=1e-4),
            ema=EMA(decay=0.9),
            max_grad_norm=0.5,
            **(hybrid if strategy == "hybrid" else {}),
        )
        train(job, STEPS)
        if ranks.is_coordinator:
            weights = dict(weights_of(folder, STEPS, ("fp32", "param", "buffer", "ema")))
            save_file(weights, out / f"{case}-{world_size}.safetensors")
