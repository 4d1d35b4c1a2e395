"""Exact steps of models that are awkward to sum, under several strategies.

Rank 0 writes the final weights. "hybrid" is fsdp on nodes of half the ranks each, or of one rank.

usage: exact_worker.py OUT STRATEGY,... MODEL,... PRECISION,... [STEPS [FOLDER]]

FOLDER: all go on in that one, as after a preemption.
"""

import os
import sys
from itertools import product
from pathlib import Path
from typing import Any

import shared_uses  # type: ignore[import-not-found]
import task  # type: ignore[import-not-found]
import torch
from exact_models import recipe_of  # type: ignore[import-not-found]
from safetensors.torch import save_file
from task import make_job, train, weights_of

from launcher.contract.environment import RankEnvironment
from strategies import EMA, Penalty, process_groups

torch.set_num_threads(1)
out = Path(sys.argv[1])
strategies, models, precisions = (argument.split(",") for argument in sys.argv[2:5])
steps = int(sys.argv[5]) if sys.argv[5:] else 12
environment = RankEnvironment.from_environ(os.environ)
world_size = environment.world_size
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=world_size
) as ranks:
    for name, precision, strategy in product(models, precisions, strategies):
        case = f"{name}-{precision}-{strategy}"
        folder = out / (sys.argv[6] if sys.argv[6:] else f"run-{case}-{world_size}")
        # Five micro-batches in a step, which no number of ranks divides.
        recipe: dict[str, Any] = (
            {
                "model": getattr(task, name, getattr(shared_uses, name, None)),
                "precision": precision,
                "exact": True,
                "penalty": Penalty(l1=1e-5, l2=1e-4),
                "ema": EMA(decay=0.9),
                "max_grad_norm": 0.5,
            }
            | recipe_of(name)
            | shared_uses.OPTIONS.get(name, {})
        )
        if strategy == "hybrid":
            recipe["hybrid_shard"] = True
            recipe["local_world_size"] = 1 if world_size % 2 else world_size // 2
        job = make_job(ranks, "fsdp" if strategy == "hybrid" else strategy, folder, **recipe)
        train(job, steps, shared_uses.CALLS.get(name))
        if ranks.is_coordinator:
            keys = ("fp32", "param", "buffer", "ema", "exp_avg", "exp_avg_sq")
            save_file(
                dict(weights_of(folder, job.step, keys)), out / f"{case}-{world_size}.safetensors"
            )
