"""Trains under each strategy, undisturbed and resumed from its middle; rank 0 writes what differs.

usage: three_ranks_worker.py OUT STRATEGIES
"""

import json
import os
import shutil
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from task import make_job  # type: ignore[import-not-found]
from torch import nn

from checkpointing import CheckpointStore, different_values
from launcher.contract.environment import RankEnvironment
from strategies import process_groups

STOP, LAST = 6, 7
"""What a script asks for at a step is done after the next."""


class Turned(nn.Module):
    """Its layers are not used in the order in which they were made."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(31, 13)
        self.embed = nn.Embedding(13, 31)
        self.last = nn.Linear(31, 31)
        self.first = nn.Linear(31, 31)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.embed(tokens).mean(1)
        for layer in (self.first, self.last):
            out = out + torch.tanh(layer(out))
        return self.head(out)  # type: ignore[no-any-return]


out = Path(sys.argv[1])
environment = RankEnvironment.from_environ(os.environ)
found: dict[str, dict[str, float]] = {}
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:

    def train(strategy: str, folder: Path) -> None:
        job = make_job(
            ranks,
            strategy,
            folder,
            model=Turned,
            save_every="3 steps",
            micro_batch=2,
        )
        for step in job:
            for tokens, labels, weights in step:
                losses = F.cross_entropy(job.model(tokens), labels, reduction="none")
                step.backward((losses * weights).sum(), count=float(weights.sum()))
            if step.number + 1 == STOP:
                job.stop("long enough")
        job.run.lockstep.stay()

    for name in sys.argv[2].split(","):
        train(name, out / name)
        if ranks.is_coordinator:
            shutil.copytree(out / name, out / f"{name}-again")
            for step in (STOP, LAST):
                shutil.rmtree(out / f"{name}-again" / "checkpoints" / f"step-{step:08d}")
        torch.distributed.barrier()
        train(name, out / f"{name}-again")
        if ranks.is_coordinator:
            stores = [CheckpointStore(out / f / "checkpoints") for f in (name, f"{name}-again")]
            with stores[0].open(LAST) as ours, stores[1].open(LAST) as theirs:
                found[name] = {one.name: one.largest for one in different_values(ours, theirs)}
    if ranks.is_coordinator:
        (out / "found.json").write_text(json.dumps(found))
