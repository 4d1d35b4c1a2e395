"""The boundary in a plain torch loop: all ranks agree to stop at the same step.

relaunch --nproc-per-node 2 scripts/examples/boundary_alone.py     (torchrun does as well)
"""

import os

import torch
import torch.distributed as dist

from strategies import Boundary, Report, process_groups


def main() -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ["LOCAL_RANK"])
    with process_groups(rank=rank, local_rank=local_rank, world_size=world_size) as ranks:
        boundary = Boundary(ranks, {"lr": 0.1})  # what must be the same on every rank
        value = torch.ones(1)
        for step in range(1, 100):
            dist.all_reduce(value)  # stands for the work that all ranks do together
            wants_to_stop = rank == world_size - 1 and step == 7
            agreed = boundary.receive()  # what was said at the former boundary
            boundary.send(Report(step=step, stop=wants_to_stop))
            if agreed is not None and agreed.stop:
                print(f"rank {rank} leaves at step {step}, asked for by {agreed.stop} rank")
                break
        boundary.drain()


if __name__ == "__main__":
    main()
