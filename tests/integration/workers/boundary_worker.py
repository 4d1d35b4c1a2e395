"""What the ranks tell each other, also when they disagree; each rank writes what it found."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from launcher.contract.environment import RankEnvironment
from strategies import (
    Boundary,
    DesyncError,
    HostCommunicator,
    MetricSums,
    Report,
    process_groups,
)
from strategies.parallel.gradients.grad_norm import squares_of_replicas

environment = RankEnvironment.from_environ(os.environ)
found = {}


def refusal(action):
    try:
        action()
    except DesyncError as error:
        return str(error)
    return None


with process_groups(
    rank=environment.rank,
    local_rank=environment.local_rank,
    world_size=environment.world_size,
) as ranks:
    rank = ranks.rank
    found["neighbours"] = ranks.neighbours is not None
    if "apart" in sys.argv:  # as on several hosts
        ranks = replace(ranks, neighbours=None)
    boundary = Boundary(ranks, {"seed": 1})
    found["first"] = boundary.receive() is None
    boundary.send(Report(step=7, preempt=rank == 1, loss_sum=2.0 + rank, loss_count=1.0 + rank))
    boundary.drain()
    agreed = boundary.receive()
    found["agreed"] = [agreed.step, agreed.preempt, agreed.stop, agreed.loss]
    found["read once"] = boundary.receive() is None

    alone = boundary.carry(1.0 + rank)
    found["alone"] = [alone().total, boundary.receive() is None]
    boundary.hold(Report(step=8, stop=rank == 0))
    along = boundary.carry(2.0 + rank)
    agreed = boundary.receive()
    found["along"] = [along().total, agreed.step, agreed.stop]
    boundary.hold(Report(step=9, save=True))
    boundary.drain()
    found["drained"] = [boundary.peek().step, boundary.receive().save, boundary.receive() is None]

    sums = MetricSums()
    sums.add({"loss": torch.arange(4.0) + rank}, weight=float(rank != 0))
    found["metrics"] = boundary.reduce_metrics(sums)

    # Equal on all ranks they would be; unlike ones show which rank's elements were counted.
    grads = [torch.full((700_000,), 1.0 + rank), torch.full((2, 3), 10.0)]
    found["squares of replicas"] = squares_of_replicas(grads, ranks)
    found["squares of a few"] = squares_of_replicas([torch.full((9,), 1.0 + rank)], ranks)

    boundary.send(Report(step=8 + rank))
    found["steps"] = refusal(boundary.drain)
    other = Boundary(ranks, {"seed": rank})
    other.send(Report(step=1))
    found["configurations"] = refusal(other.drain)
    odd = MetricSums()
    odd.add({f"loss{rank}": torch.ones(2)} | ({"more": torch.ones(1)} if rank else {}), weight=1.0)
    found["names"] = refusal(lambda: Boundary(ranks, {}).reduce_metrics(odd))

    talk = HostCommunicator(ranks)
    mine = {"rank": rank, "text": "é" * (rank + 1), "list": [None, 1.5, True]}
    found["gathered"] = talk.gather(mine)
    found["all gathered"] = [one["rank"] for one in talk.all_gather(mine)]
    found["broadcast"] = talk.broadcast(mine if rank == 0 else None)

Path(sys.argv[1], f"rank-{environment.rank}.json").write_text(json.dumps(found))
