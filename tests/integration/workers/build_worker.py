"""Four steps for each of several ways to build a model; rank 0 writes the final weights.

Usage: build_worker.py OUT '[(NAME, STRATEGY, MODEL, PRECISION, RECIPE), ...]', a Python literal.
A RECIPE holds fields of Recipe, and local_world_size for nodes that are not there. Optimizers and
models are named as in task.py.
"""

import ast
import os
import sys
from importlib import import_module
from pathlib import Path

import task
import torch
from safetensors.torch import save_file
from task import make_job, train, weights_of

from launcher.contract.environment import RankEnvironment
from strategies import ConfigError, process_groups

torch.set_num_threads(1)
out = Path(sys.argv[1])
environment = RankEnvironment.from_environ(os.environ)
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    for name, strategy, model, precision, recipe in ast.literal_eval(sys.argv[2]):
        folder = out / f"run-{name}"
        if "optimizer" in recipe:
            recipe["optimizer"] = getattr(task, recipe["optimizer"])
        try:
            job = make_job(
                ranks,
                strategy,
                folder,
                model=getattr(task, model, None) or getattr(import_module("outside"), model),
                precision=precision,
                **recipe,
            )
        except ConfigError as error:
            if ranks.is_coordinator:
                print(f"refused {name}: {error}")
            continue
        blocks = getattr(job._strategy, "blocks", {})
        train(job, 4)
        job.export("last")
        if ranks.is_coordinator:
            print("built", name, *blocks, getattr(job._strategy, "_replicas", 1))
            weights = dict(weights_of(folder, 4, ("fp32", "param", "buffer")))
            save_file(weights, out / f"{name}.safetensors")
