"""Train on scikit-learn's digits in a loop of plain torch that a preemption does not cost a step.

relaunch --nproc-per-node 2 scripts/own_loop_digits.py
python scripts/own_loop_digits.py                    (one process)
"""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from launcher import Resumable

EPOCHS, GLOBAL_BATCH = 4, 64


def main() -> None:
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    is_spread = dist.is_initialized()
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if is_spread else (0, 1)
    digits = load_digits()
    pixels = torch.tensor(digits.data, dtype=torch.float32) / 16
    data = TensorDataset(pixels, torch.tensor(digits.target))
    sampler = DistributedSampler(data, num_replicas=world_size, rank=rank)
    loader = DataLoader(data, batch_size=GLOBAL_BATCH // world_size, sampler=sampler)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 10))
    if is_spread:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))

    with Resumable(model=model, optimizer=optimizer, schedulers=[scheduler], loader=loader) as run:
        for _, (x, y) in run.batches(epochs=EPOCHS):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            run.step(loss=loss)
    if rank == 0:
        torch.save(model.state_dict(), "digits.pt")


if __name__ == "__main__":
    main()
