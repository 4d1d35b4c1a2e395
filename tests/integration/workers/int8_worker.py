"""A frozen base in int8 with an adapter beside it; rank 0 writes what the checkpoint has.

usage: int8_worker.py OUT STRATEGY,...
"""

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from task import CLASSES, make_job, train, weights_of  # type: ignore[import-not-found]
from torch import nn

from launcher.contract.environment import RankEnvironment
from strategies import process_groups

torch.set_num_threads(1)
STEPS = 4


class Quantized(nn.Module):
    """A linear layer whose matrix is int8, with a scale for each row, and a low-rank adapter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        whole = torch.randn(width, width, generator=torch.Generator().manual_seed(5))
        scale = whole.abs().amax(1, keepdim=True) / 127
        codes = (whole / scale).round().to(torch.int8)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.down = nn.Linear(width, 3, bias=False)
        self.up = nn.Linear(3, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = F.linear(x, self.codes.to(x.dtype) * self.scale)
        adapted: torch.Tensor = base + self.up(self.down(x))
        return adapted


class Adapted(nn.Module):
    """An embedding, a quantized layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 32)
        self.layer = Quantized(32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.tanh(self.layer(self.embed(tokens).mean(1))))
        return logits


out, strategies = Path(sys.argv[1]), sys.argv[2].split(",")
environment = RankEnvironment.from_environ(os.environ)
with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    for named in strategies:
        folder, pieces = out / f"run-{named}-{ranks.world_size}", named.split("+")
        for strategy in pieces:
            train(make_job(ranks, strategy, folder, model=Adapted), STEPS // len(pieces))
        if ranks.is_coordinator:
            found = dict(weights_of(folder, STEPS, ("fp32", "param")))
            save_file(found, out / f"{named}-{ranks.world_size}.safetensors")
            print(f"done {named}", flush=True)
