"""A loop of plain torch with Resumable around it; every rank may be asked to leave at a step."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from launcher import Resumable
from strategies import EarlyStopping

parser = argparse.ArgumentParser()
parser.add_argument("--wrap", default="plain")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--notice-at", type=int, default=0)
parser.add_argument("--dropout", action="store_true")
parser.add_argument("--shuffle", action="store_true", help="by torch's own stream")
parser.add_argument("--accumulate", type=int, default=1)
parser.add_argument("--evaluate", action="store_true")
parser.add_argument("--wrong", default="")
parser.add_argument("--sleep", type=float, default=0.0, help="seconds in each step")
options = parser.parse_args()

if "RANK" in os.environ:
    dist.init_process_group("gloo")
world_size = dist.get_world_size() if dist.is_initialized() else 1
rank = dist.get_rank() if dist.is_initialized() else 0

torch.manual_seed(0)
width = 16 if options.wrong == "model" else 12
layers = [nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3)]
if options.dropout:
    layers.insert(2, nn.Dropout(0.2))
model: Any = nn.Sequential(*layers)
draws = torch.Generator().manual_seed(1)
inputs = torch.randn(40, 6, generator=draws)
data = TensorDataset(inputs, torch.randint(0, 3, (40,), generator=draws))
if options.shuffle:
    loader: Any = DataLoader(data, batch_size=8, shuffle=True)
else:
    sampler: Any = DistributedSampler(data, num_replicas=world_size, rank=rank, seed=3)
    loader = DataLoader(data, batch_size=8 // world_size, sampler=sampler)
if options.wrong == "loader":
    loader = (batch for batch in loader)
torch.manual_seed(100 + rank)

if options.wrap == "ddp":
    model = nn.parallel.DistributedDataParallel(model)
elif options.wrap == "fsdp":
    from torch.distributed.fsdp import fully_shard

    fully_shard(model)
optimizer: Any = torch.optim.AdamW(model.parameters(), lr=0.01)
engine: Any = None
if options.wrap.startswith("zero"):
    import deepspeed

    # It would be compiled, under a lock that a killed rank leaves behind for ever.
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    engine, optimizer, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config={
            "train_micro_batch_size_per_gpu": 8 // world_size,
            "gradient_accumulation_steps": options.accumulate,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": int(options.wrap[-1])},
        },
    )
    model = engine
if options.wrong == "optimizer":
    optimizer = torch.optim.AdamW(nn.Linear(6, 3).parameters())
steps_by = optimizer if engine is None else engine.optimizer.optimizer
schedulers: list[Any] = [torch.optim.lr_scheduler.CosineAnnealingLR(steps_by, 15)]
if options.wrong == "scheduler":
    schedulers.append(object())
stop = EarlyStopping("val/loss", patience=2) if options.evaluate else None


def update(loss: torch.Tensor, number: int) -> bool:
    """Do a backward, and a step at the end of an accumulation."""
    if engine is not None:
        is_last = bool(engine.is_gradient_accumulation_boundary())
        engine.backward(loss)
        engine.step()
        return is_last
    (loss / options.accumulate).backward()
    if number % options.accumulate:
        return False
    optimizer.step()
    optimizer.zero_grad()
    return True


number = 0
resumable = Resumable(
    model=model, optimizer=optimizer, schedulers=schedulers, loader=loader, stop=stop, log_every=1
)
if options.wrong == "second":
    with resumable:
        pass
    resumable = Resumable(model=model, optimizer=optimizer, loader=loader)
with resumable as run:
    for _, (x, y) in run.batches(epochs=options.epochs):
        number += 1
        time.sleep(options.sleep)
        loss = nn.functional.cross_entropy(model(x), y)
        if not update(loss, number):
            continue
        schedulers[0].step()
        if options.wrong == "missing" and rank == 1 and run.steps_done == 2:
            continue
        run.step(loss=loss)
        if run.evaluation_due and options.evaluate:
            torch.rand(1)  # an evaluation may draw
            value = 1.0 if run.steps_done > 5 else 2.0
            run.evaluated({"val/loss": value + rank * (options.wrong == "evaluation")})
        leaver = Path("left")
        if options.notice_at == run.steps_done and rank == world_size - 1 and not leaver.exists():
            leaver.touch()
            os.kill(os.getpid(), signal.SIGTERM)
print(f"after the loop: {run.steps_done} steps")
if dist.is_initialized():
    dist.destroy_process_group()
sys.exit(0)
