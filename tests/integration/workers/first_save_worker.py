"""Notes in which thread the memory of saves is taken; every rank writes what it has seen.

usage: first_save_worker.py OUT STRATEGIES
"""

import json
import os
import sys
import threading
from pathlib import Path

import torch.nn.functional as F
from task import make_job  # type: ignore[import-not-found]

from checkpointing.background.staging import Staging
from launcher.contract.environment import RankEnvironment
from strategies import process_groups

out = Path(sys.argv[1])
environment = RankEnvironment.from_environ(os.environ)
taken: list[str] = []
reserve = Staging._reserve


def noting(staging: Staging, size_bytes: int) -> None:
    taken.append(threading.current_thread().name)
    reserve(staging, size_bytes)


Staging._reserve = noting  # type: ignore[method-assign, assignment]
found = {}
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    for strategy in sys.argv[2].split(","):
        taken.clear()
        job = make_job(ranks, strategy, out / strategy, save_every="3 steps")
        for step in job:
            if step.number == 8:
                break
            for tokens, labels, weights in step:
                losses = F.cross_entropy(job.model(tokens), labels, reduction="none")
                step.backward((losses * weights).sum(), count=float(weights.sum()))
        found[strategy] = list(taken), job._checkpointer.newest_step
        job.run.lockstep.stay()
    (out / f"rank-{ranks.rank}.json").write_text(json.dumps(found))
