"""A loop of one's own on a GPU that is pretended, then on the host; rank 0 writes what was found.

usage: two_places_own_loop.py OUT plain|ddp|accelerate|zero1|zero2|zero3
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pretended_deepspeed import places  # type: ignore[import-not-found]
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from two_places import DEVICE, TwoPlaces  # type: ignore[import-not-found]

from launcher import Resumable

torch.set_num_threads(1)
out, kind = Path(sys.argv[1]), sys.argv[2]
SAMPLES, FEATURES, CLASSES = 40, 6, 3


def prepared(*, cpu: bool) -> Any:
    """Return an Accelerator on the device or on the host."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    made = Accelerator(cpu=cpu)
    torch.set_num_threads(1)  # on CPUs it takes all, and other threads round otherwise
    return made


def engine_of(model: nn.Module, optimizer: Any) -> tuple[Any, Any]:
    """Return DeepSpeed's, with what is stepped on the host."""
    import deepspeed

    stage, on_host = int(kind[-1]), {"device": "cpu", "pin_memory": True}
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, "offload_optimizer": on_host},
        "timers": {"throughput": {"enabled": False}},
    }
    engine, stepped, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine, stepped


def train(device: torch.device, world: TwoPlaces | None) -> dict[str, Any]:
    """Train; return the weights and how each `run.step` waited."""
    steps: list[dict[str, int]] = []
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Linear(FEATURES, 12), nn.BatchNorm1d(12), nn.Linear(12, CLASSES)
    ).to(device)
    if kind == "ddp":
        model = DistributedDataParallel(model, device_ids=[0] if world else None)
    data = TensorDataset(torch.randn(SAMPLES, FEATURES), torch.randint(0, CLASSES, (SAMPLES,)))
    loader: Any = DataLoader(
        data,
        batch_size=4 if kind == "ddp" else 8,
        pin_memory=world is not None,
        sampler=DistributedSampler(data) if kind == "ddp" else None,
    )
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=0.01)
    settings: Any = {"log_every": 1, "save_every": "4 steps"}
    settings["run_dir"] = out / f"{kind}-{device.type}"
    backward: Any = torch.Tensor.backward
    if kind == "accelerate":
        accelerator = prepared(cpu=world is None)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        backward = accelerator.backward
        made = {"model": model, "optimizer": optimizer, "loader": loader}
        resumable = Resumable.of(accelerator, **made, **settings)
    else:
        if kind.startswith("zero"):
            model, optimizer = engine_of(model, optimizer)
            backward = model.backward
        resumable = Resumable(model=model, optimizer=optimizer, loader=loader, **settings)
    with resumable as run:
        for _, batch in run.batches(epochs=3):
            x, y = (one.to(device, non_blocking=True) for one in batch)
            loss = nn.functional.cross_entropy(model(x), y)
            backward(loss)
            if kind.startswith("zero"):
                model.step()
            else:
                optimizer.step()
                optimizer.zero_grad()
            if world is not None:
                world.waits.clear()
            run.step(loss=loss)
            steps.append({} if world is None else dict(world.waits))
    if kind == "zero3":
        model.empty_partition_cache()
    weights = [one.detach().cpu().flatten().tolist() for one in model.state_dict().values()]
    return {"steps": steps, "weights": weights}


if kind != "plain":
    dist.init_process_group("gloo")
with places(kind) as pretended:
    found = train(DEVICE, pretended)
truth = train(torch.device("cpu"), None)
if int(os.environ.get("RANK", "0")) == 0:
    told = {"steps": found["steps"], "same": found["weights"] == truth["weights"]}
    (out / "steps.json").write_text(json.dumps(told))
