"""Data that makes losses infinite for some steps; rank 0 writes what happened."""

import json
import os
import sys
from pathlib import Path

import task
import torch
from task import make_job, train, weights_of

from launcher.contract.environment import RankEnvironment
from strategies import process_groups
from strategies.data.batches import BatchPlan

torch.set_num_threads(1)
out, strategies = Path(sys.argv[1]), sys.argv[2].split(",")
environment = RankEnvironment.from_environ(os.environ)
PLAN = BatchPlan(num_samples=400, global_batch=20, micro_batch=4, epochs=100, seed=11)


class Poisoned(task.Samples):
    """The data of steps 5 to 8 has weights that are not finite."""

    def __init__(self) -> None:
        super().__init__(400)
        for step in range(5, 9):
            for indices in PLAN.samples(step, PLAN.turns(step, 0, 1)):
                self.weights[torch.from_numpy(indices)] = torch.inf


with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:

    def job(strategy, folder, **recipe):
        return make_job(
            ranks,
            strategy,
            folder,
            **{"train": Poisoned(), "save_every": "2 steps", "max_skipped": 3} | recipe,
        )

    found = {}
    for strategy in strategies:
        folder = out / f"{strategy}-{ranks.world_size}"
        # Leaves right after it has gone back, comes again, and must not see the window again.
        train(job(strategy, folder), 6)
        resumed = job(strategy, folder)
        train(resumed, 6)
        if ranks.is_coordinator:
            events = [json.loads(line) for line in (folder / "events.jsonl").open()]
            steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]
            found[strategy] = {
                "rolled back": [e for e in events if e["event"] == "rolled back"],
                "jumps": [[j.at, j.length] for j in resumed.plan.jumps],
                "steps": steps,
                "checkpoints": resumed.run.folder.checkpoints.steps(),
            }
            weights = dict(weights_of(folder, 12, ("fp32",)))
            torch.save(weights, out / f"{strategy}-{ranks.world_size}.pt")
    if ranks.is_coordinator:
        (out / f"found-{ranks.world_size}.json").write_text(json.dumps(found))
