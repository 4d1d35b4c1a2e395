"""A loop of one's own on a GPU that is pretended; writes how `run.step` waited for it.

usage: two_places_own_loop.py OUT
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from two_places import DEVICE, TwoPlaces  # type: ignore[import-not-found]

from launcher import Resumable

torch.set_num_threads(1)
steps: list[dict[str, int]] = []
with TwoPlaces() as world:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Linear(12, 3)).to(DEVICE)
    data = TensorDataset(torch.randn(40, 6), torch.randint(0, 3, (40,)))
    loader: Any = DataLoader(data, batch_size=8, pin_memory=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    resumable = Resumable(
        model=model, optimizer=optimizer, loader=loader, log_every=1, save_every="4 steps"
    )
    with resumable as run:
        for _, batch in run.batches(epochs=3):
            x, y = (one.to(DEVICE, non_blocking=True) for one in batch)
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            world.waits.clear()
            run.step(loss=loss)
            steps.append(dict(world.waits))
Path(sys.argv[1], "steps.json").write_text(json.dumps(steps))
