"""A model with parameters of no dimension, under every strategy; rank 0 writes what came of it.

usage: scalar_worker.py OUT STRATEGIES CHAIN (the strategy that goes on with the run in OUT/chain)
"""

import os
import sys
from pathlib import Path

import torch
from task import CLASSES, adamw, make_job, train, weights_of
from torch import nn

from checkpointing import CheckpointStore
from launcher.contract.environment import RankEnvironment
from strategies import EMA, Penalty, process_groups

torch.set_num_threads(1)
out = Path(sys.argv[1])
environment = RankEnvironment.from_environ(os.environ)
KEYS = ("fp32", "ema", "exp_avg", "exp_avg_sq", "param")
OPTIONS = {
    "log_every": 1,
    "ema": EMA(decay=0.9),
    "penalty": Penalty(l1=1e-3, l2=1e-2, names=("*gain", "logit_scale")),
    "unfreeze": {"late": 3},
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(17, 17)
        self.gain = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.inner(x)) * self.gain


class Scaled(nn.Module):
    """Numbers at the root, in blocks, tied, not trained, and trained later."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 17)
        self.blocks = nn.ModuleList([Block() for _ in range(3)])
        self.blocks[2].gain = self.blocks[1].gain
        self.late = nn.Parameter(torch.tensor(1.0))
        self.fixed = nn.Parameter(torch.tensor(1.25), requires_grad=False)
        self.logit_scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).mean(1) * self.late * self.fixed
        for block in self.blocks:
            x = block(x)
        return x @ self.embed.weight.T * self.logit_scale.exp()


def adamw_together(parameters):
    optimizer = adamw(parameters)
    for group in optimizer.param_groups:
        group["foreach"] = True
    return optimizer


with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:

    def run(strategy, name, steps, last, **options):
        folder = out / name
        train(make_job(ranks, strategy, folder, model=Scaled, **(OPTIONS | options)), steps)
        if ranks.is_coordinator:
            with CheckpointStore(folder / "checkpoints").open(last) as reader:
                shapes = {s.name: s.shape for s in reader.manifest.specs()}
            state = dict(weights_of(folder, last, KEYS))
            torch.save((state, shapes), out / f"{name}.pt")

    size = ranks.world_size
    for strategy in filter(None, sys.argv[2].split(",")):
        run(strategy, f"{strategy}-{size}", 6, 6)
        if strategy in ("single", "fsdp", "zero2", "zero3"):
            run(strategy, f"{strategy}-{size}-by-name", 6, 6, init="by-name")
        if (strategy, size) in (("fsdp", 2), ("zero3", 2), ("ddp", 2)):
            run(strategy, f"{strategy}-{size}-bf16", 6, 6, precision="bf16")
    if ranks.world_size == 2:
        run("fsdp", "hybrid", 6, 6, hybrid_shard=True, local_world_size=1)
        # As on a GPU, where torch steps all parameters in one call.
        run("fsdp", "together", 6, 6, optimizer=adamw_together)
    chain = sys.argv[3].split(",")
    for strategy in chain:
        last = max(CheckpointStore(out / "chain" / "checkpoints").steps(), default=0) + 2
        run(strategy, "chain", 2, last)
    if chain == ["single"]:
        run("single", "truth", last, last)
