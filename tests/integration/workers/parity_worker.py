"""Some steps under every strategy on this world size; rank 0 writes the final weights.

usage: parity_worker.py OUT MODEL STRATEGIES [STEPS [PRECISION]]
"""

import os
import sys
from pathlib import Path

import task
import torch
from safetensors.torch import save_file
from task import make_job, train, weights_of

from launcher.contract.environment import RankEnvironment
from strategies import process_groups

torch.set_num_threads(1)
out = Path(sys.argv[1])
model = getattr(task, sys.argv[2])
strategies = sys.argv[3].split(",")
steps = int(sys.argv[4]) if len(sys.argv) > 4 else 10
precision = sys.argv[5] if len(sys.argv) > 5 else "fp32"
environment = RankEnvironment.from_environ(os.environ)
world_size = environment.world_size
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=world_size
) as ranks:
    for strategy in strategies:
        folder = out / f"run-{strategy}-{world_size}"
        train(make_job(ranks, strategy, folder, model=model, precision=precision), steps)
        if ranks.is_coordinator:
            weights = dict(weights_of(folder, steps, ("fp32", "param", "buffer")))
            save_file(weights, out / f"{strategy}-{world_size}.safetensors")
