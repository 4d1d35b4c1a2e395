"""A strategy and checkpoints in a plain torch loop: save under one, resume under another.

relaunch --nproc-per-node 2 scripts/examples/strategy_alone.py fsdp FOLDER
relaunch --nproc-per-node 2 scripts/examples/strategy_alone.py zero2 FOLDER      (resumes)
"""

import os
import sys
from pathlib import Path

import torch
from torch import nn

from checkpointing import CheckpointStore, save_checkpoint
from strategies import (
    Blueprint,
    HostCommunicator,
    collect_state,
    current_hyperparameters,
    precision_for,
    process_groups,
    restore_newest,
    strategy_class,
)

STEPS = 5


def main(name: str, folder: Path) -> None:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ["LOCAL_RANK"])
    with process_groups(rank=rank, local_rank=local_rank, world_size=world_size) as ranks:
        blueprint = Blueprint(
            model=lambda: nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 1)),
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
            precision=precision_for("fp32", ranks.device.type),
            max_grad_norm=1.0,
            seed=0,
            ranks=ranks,
        )
        strategy = strategy_class(name)(blueprint)
        requested = current_hyperparameters(strategy.param_groups)
        store, talk = CheckpointStore(folder), HostCommunicator(ranks)
        restored = restore_newest(strategy, store, talk, requested=requested)
        first = 0 if restored is None else restored.step
        for step in range(first, first + STEPS):
            generator = torch.Generator().manual_seed(step * world_size + rank)
            x = torch.randn(16, 8, generator=generator).to(ranks.device)
            strategy.micro_step(is_last=True)
            loss = (strategy.module(x) - x.sum(1, keepdim=True)).square().sum()
            strategy.backward(loss)
            strategy.step(16 * world_size)  # of how many samples the gradient is the mean
        collected = collect_state(
            strategy,
            talk,
            step=first + STEPS,
            state={"note": "whatever else your loop needs, as JSON"},
            created_by={"strategy": name, "world_size": world_size},
            requested=requested,
        )
        save_checkpoint(store, collected, talk)
        if ranks.is_coordinator:
            print(f"steps {first} to {first + STEPS} under {name}, loss {float(loss) / 16:.3f}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
