"""Save under each strategy, go on under each; rank 0 writes how the continuations differ.

One micro-batch a rank and step: the order in which gradients are summed is then the same under all
strategies, and equal state must give equal bits.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from task import STRATEGIES, make_job, train, weights_of

from launcher.contract.environment import RankEnvironment
from strategies import process_groups

KEYS = ("fp32", "exp_avg", "exp_avg_sq", "param", "buffer")
torch.set_num_threads(1)
out, precision = Path(sys.argv[1]), sys.argv[2]
names = sys.argv[3].split(",") if len(sys.argv) > 3 else STRATEGIES
environment = RankEnvironment.from_environ(os.environ)
differences = {}
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:

    def job(strategy, folder):
        return make_job(ranks, strategy, folder, micro_batch=10, precision=precision)

    for saver in names:
        train(job(saver, out / f"{saver}-saved"), 4)
        train(job(saver, out / f"{saver}-straight"), 8)
    for saver in names:
        straight = dict(weights_of(out / f"{saver}-straight", 8, KEYS))
        for loader in names:
            folder = out / f"{saver}-{loader}"
            if ranks.is_coordinator:
                shutil.copytree(out / f"{saver}-saved" / "checkpoints", folder / "checkpoints")
            dist.barrier()
            train(job(loader, folder), 4)
            gone_on = dict(weights_of(folder, 8, KEYS))
            assert gone_on.keys() == straight.keys()
            differences[f"{saver}->{loader}"] = max(
                float((gone_on[k].double() - straight[k].double()).abs().max())
                for k in straight
                if straight[k].numel()
            )
    if ranks.is_coordinator:
        (out / "differences.json").write_text(json.dumps(differences))
