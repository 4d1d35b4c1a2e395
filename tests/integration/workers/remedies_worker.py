"""What the messages about models and losses advise, followed; rank 0 writes the weights.

usage: remedies_worker.py OUT STRATEGIES
"""

import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from task import CLASSES, make_job, train, weights_of
from torch import nn

from launcher.contract.environment import RankEnvironment
from strategies import process_groups

torch.set_num_threads(1)
out = Path(sys.argv[1])
environment = RankEnvironment.from_environ(os.environ)
STEPS = 5
LENGTH = {"epochs": None, "steps": STEPS}


class Layers(nn.Module):
    """Leaves layers out by chance: computed too, and multiplied by 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 24)
        # The second is larger than what ZeRO-3 keeps whole.
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(24, wide), nn.Tanh(), nn.Linear(wide, 24))
            for wide in (24, 4300, 24)
        )
        self.head = nn.Linear(24, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).mean(1)
        for layer in self.layers:
            keep = not self.training or bool(torch.rand(()) > 0.4)
            x = x + layer(x) * float(keep)
        return self.head(x)


class ByParameters(Layers):
    """In place of a layer that is left out, its parameters times 0, as other engines need it."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).mean(1)
        for layer in self.layers:
            if not self.training or bool(torch.rand(()) > 0.4):
                x = x + layer(x)
            else:
                x = x + sum(0 * p.sum() for p in layer.parameters())
        return self.head(x)


class Unused(Layers):
    """Has a layer that is not used: not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(24, 24)
        self.spare.requires_grad_(requires_grad=False)


class Lazy(nn.Module):
    """Lazy modules: called once inside the factory."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 24)
        self.inner, self.head = nn.LazyLinear(24), nn.LazyLinear(CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.inner(self.embed(tokens).mean(1))))


def called_once() -> nn.Module:
    model = Lazy()
    model(torch.zeros(1, 5, dtype=torch.int64))
    return model


def in_fp32() -> nn.Module:
    """Built in low precision, as some checkpoints are: masters are fp32."""
    return called_once().to(torch.bfloat16).float()


def with_own_groups(parameters):
    """As task.adamw, with what is unfrozen later apart from what is trained from the beginning."""
    groups = {}
    for name, parameter in parameters.named():
        key = (name.startswith("layers."), parameter.ndim > 1)
        groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": g, "weight_decay": 0.1 * decays} for (_, decays), g in groups.items()],
        lr=1e-3,
        eps=1e-6,
    )


def train_with_gaps(job, loss_of):
    """Nothing counts in the micro-batches whose first label is odd."""
    for step in job:
        for tokens, labels, _ in step:
            nothing = loss_of is not all_of_them and int(labels[0]) % 2
            count = 0 if nothing else len(labels)
            step.backward(loss_of(job.model(tokens), labels, count), count=count)


def all_of_them(logits, labels, count):
    return F.cross_entropy(logits, labels, reduction="sum")


def sum_times_zero(logits, labels, count):
    losses = F.cross_entropy(logits, labels, reduction="none")
    return losses.sum() if count else losses.sum() * 0


def mean_times_count(logits, labels, count):
    return F.cross_entropy(logits, labels) * count


with process_groups(
    rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
) as ranks:

    def write(name, folder, step=STEPS):
        if ranks.is_coordinator:
            save_file(dict(weights_of(folder, step, ("fp32",))), out / f"{name}.safetensors")

    for strategy in sys.argv[2].split(","):
        for model in (Layers, ByParameters, Unused, called_once, in_fp32):
            folder = out / f"{model.__name__}-{strategy}-{ranks.world_size}"
            train_with_gaps(make_job(ranks, strategy, folder, model=model, **LENGTH), all_of_them)
            write(folder.name, folder)
        for loss_of in (sum_times_zero, mean_times_count):
            folder = out / f"{loss_of.__name__}-{strategy}-{ranks.world_size}"
            train_with_gaps(make_job(ranks, strategy, folder, model=Layers, **LENGTH), loss_of)
            write(folder.name, folder)
        # Parameters with other counters than the rest of their group are refused under ZeRO.
        folder = out / f"groups-{strategy}-{ranks.world_size}"
        first = "single" if ranks.world_size == 1 else "ddp"
        late = {"unfreeze": {"layers.*": 2}}
        train(make_job(ranks, first, folder, model=Layers, **late), 3)
        mine = {"optimizer": with_own_groups} if strategy.startswith("zero") else late
        train(make_job(ranks, strategy, folder, model=Layers, **mine), 2)
        write(folder.name, folder)
