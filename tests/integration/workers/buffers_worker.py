"""Models whose forward moves buffers, under several strategies; rank 0 writes what came of it.

usage: buffers_worker.py OUT STRATEGIES
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from task import CLASSES, make_job, train, weights_of
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as by_hook

from launcher.contract.environment import RankEnvironment
from strategies import process_groups

torch.set_num_threads(1)
out = Path(sys.argv[1])
environment = RankEnvironment.from_environ(os.environ)
SPECTRAL = {"parametrized": parametrizations.spectral_norm, "hook": by_hook}


class Ordered(nn.Module):
    """Buffers whose order is known: norms' statistics, some frozen, and spectral norm's vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 16)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "inner": spectral(nn.Linear(16, 16)),
                    "norm": nn.InstanceNorm1d(16, affine=True, track_running_stats=True),
                    "batch": nn.BatchNorm1d(16),
                }
            )
            for spectral in SPECTRAL.values()
        )
        self.head = nn.Linear(16, CLASSES)
        self.frozen = nn.BatchNorm1d(16)
        self.frozen.requires_grad_(False)
        self.frozen.running_var.fill_(2.0)

    def train(self, mode: bool = True) -> "Ordered":
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = torch.tanh(block["inner"](x)).transpose(1, 2)
            x = block["batch"](block["norm"](x)).transpose(1, 2)
        return self.head(self.frozen(x.mean(1)))


class Step(nn.Module):
    """A block that can be computed again, and has spectral norm, BatchNorm and an average."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = parametrizations.spectral_norm(nn.Linear(16, 16))
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.norm(self.inner(x)))


class Recomputed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 16)
        self.steps = nn.ModuleList([Step(), Step()])
        self.head = nn.Linear(16, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).mean(1)
        for step in self.steps:
            x = step(x)
        return self.head(x)


class Counting(nn.Module):
    """A moving average and a counter in the forward, a flag set once, a counter in the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 16)
        self.head = nn.Linear(16, CLASSES)
        self.inner = nn.Module()
        self.inner.register_buffer("mean", torch.zeros(16))
        self.register_buffer("forwards", torch.zeros((), dtype=torch.int64))
        self.register_buffer("is_begun", torch.zeros((), dtype=torch.bool))
        self.register_buffer("warmth", torch.zeros(()))
        self.in_forward = True

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).mean(1)
        if self.training and self.in_forward:
            self.forwards += 1
            self.inner.mean.lerp_(x.detach().mean(0), 0.1)
        self.is_begun.fill_(value=True)
        return self.head(x * (1.0 + self.warmth) - self.inner.mean)


class MovedInLoop(Counting):
    def __init__(self) -> None:
        super().__init__()
        self.in_forward = False


class Rotary(nn.Module):
    """Frequencies that are not saved, and kept as a plain attribute too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 16)
        frequencies = 1.0 / 100 ** (torch.arange(0, 16, 2).float() / 16)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.original = self.frequencies
        self.scales = [torch.full((1,), 1.5)]
        self.head = nn.Linear(16, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(tokens.shape[1])[:, None] * (self.frequencies + self.original) / 2
        turn = torch.cat([angles.cos(), angles.sin()], -1) * self.scales[0]
        return self.head((self.embed(tokens) * turn).mean(1))


def sgd(parameters):
    # A norm makes gradients before it vanish, and Adam would make steps of their rounding.
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def train_and_move(job, model):
    """Follow the advice: move the buffer after the step's micro-batches."""
    for step in job:
        for tokens, labels, _ in step:
            loss = F.cross_entropy(job.model(tokens), labels, reduction="sum")
            step.backward(loss, count=len(labels))
        model[-1].warmth.fill_(min(1.0, 0.1 * (step.number + 1)))


def events_of(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").open()]


with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:
    notes = {}
    for strategy in sys.argv[2].split(","):
        for name, model, options in (
            ("ordered", Ordered, {}),
            ("plain", Recomputed, {}),
            ("again", Recomputed, {"checkpoint_blocks": True}),
            ("counting", Counting, {}),
            ("loop", MovedInLoop, {"epochs": None, "steps": 5}),
            ("rotary", Rotary, {"init": "by-name"}),
        ):
            folder = out / f"{name}-{strategy}-{ranks.world_size}"
            made = []

            def build(model=model, made=made):
                made.append(model())
                return made[-1]

            job = make_job(ranks, strategy, folder, model=build, optimizer=sgd, **options)
            if name == "loop":
                train_and_move(job, made)
            elif name == "rotary":
                train(job, 2)
                train(make_job(ranks, strategy, folder, model=build, optimizer=sgd, **options), 3)
            else:
                train(job, 5)
            if ranks.is_coordinator:
                torch.save(dict(weights_of(folder, 5, ("fp32", "buffer"))), f"{folder}.pt")
                notes[folder.name] = [
                    e["sentence"] for e in events_of(folder) if e["event"] == "note"
                ]
    if ranks.is_coordinator:
        (out / f"notes-{ranks.world_size}.json").write_text(json.dumps(notes))
