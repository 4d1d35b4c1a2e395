"""A loop of one's own on a GPU that is pretended, then on the host; rank 0 writes what was found.

usage: two_places_own_loop.py OUT plain|ddp
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from two_places import DEVICE, TwoPlaces  # type: ignore[import-not-found]

from launcher import Resumable

torch.set_num_threads(1)
out, kind = Path(sys.argv[1]), sys.argv[2]
SAMPLES, FEATURES, CLASSES = 40, 6, 3


def train(device: torch.device, world: TwoPlaces | None) -> dict[str, Any]:
    """Train; return the weights and how each `run.step` waited."""
    steps: list[dict[str, int]] = []
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Linear(FEATURES, 12), nn.BatchNorm1d(12), nn.Linear(12, CLASSES)
    ).to(device)
    if kind == "ddp":
        model = DistributedDataParallel(model, device_ids=[0] if world else None)
    data = TensorDataset(torch.randn(SAMPLES, FEATURES), torch.randint(0, CLASSES, (SAMPLES,)))
    loader: Any = DataLoader(
        data,
        batch_size=8 if kind == "plain" else 4,
        pin_memory=world is not None,
        sampler=DistributedSampler(data) if kind == "ddp" else None,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    resumable = Resumable(
        model=model,
        optimizer=optimizer,
        loader=loader,
        log_every=1,
        save_every="4 steps",
        run_dir=out / f"{kind}-{device.type}",
    )
    with resumable as run:
        for _, batch in run.batches(epochs=3):
            x, y = (one.to(device, non_blocking=True) for one in batch)
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            if world is not None:
                world.waits.clear()
            run.step(loss=loss)
            steps.append({} if world is None else dict(world.waits))
    weights = [one.detach().cpu().flatten().tolist() for one in model.state_dict().values()]
    return {"steps": steps, "weights": weights}


if kind == "ddp":
    dist.init_process_group("gloo")
with TwoPlaces() as pretended:
    found = train(DEVICE, pretended)
truth = train(torch.device("cpu"), None)
if int(os.environ.get("RANK", "0")) == 0:
    told = {"steps": found["steps"], "same": found["weights"] == truth["weights"]}
    (out / "steps.json").write_text(json.dumps(told))
