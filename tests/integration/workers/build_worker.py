"""Ten steps with the given recipe under one strategy; rank 0 writes the final weights.

Usage: build_worker.py OUT STRATEGY MODEL PRECISION 'dict of recipe fields and local_world_size'
"""

import ast
import os
import sys
from pathlib import Path

import task
import torch
from safetensors.torch import save_file
from task import make_job, train, weights_of

from launcher.environment import RankEnvironment
from strategies import process_groups

torch.set_num_threads(1)
out, strategies, model, precision = Path(sys.argv[1]), *sys.argv[2:5]
recipe = ast.literal_eval(sys.argv[5]) if len(sys.argv) > 5 else {}
environment = RankEnvironment.from_environ(os.environ)
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    for strategy in strategies.split(","):
        folder = out / f"run-{strategy}"
        job = make_job(
            ranks,
            strategy,
            folder,
            model=getattr(task, model),
            precision=precision,
            **recipe,
        )
        blocks = getattr(job._strategy, "blocks", {})
        train(job, 4)
        if ranks.is_coordinator:
            print("built", strategy, *blocks, getattr(job._strategy, "_replicas", 1))
            weights = dict(weights_of(folder, 4, ("fp32", "param", "buffer")))
            save_file(weights, out / f"{strategy}.safetensors")
