"""A small model with everything that is awkward to shard, and a run of it inside one process."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from checkpointing import CheckpointStore
from launcher.contract.environment import RankEnvironment
from launcher.contract.preemption import PreemptionFlag
from launcher.contract.run_options import RunOptions
from launcher.run_folder.folder import RunFolder
from launcher.training.loop.job import Job, Preempted
from launcher.training.run import Run
from launcher.training.start.opening import open_run
from strategies import Parameters, Ranks, metrics
from strategies.boundary import notice_rounds

CLASSES = 13
STRATEGIES = ("ddp", "fsdp", "zero1", "zero2", "zero3")


class Awkward(nn.Module):
    """Tied, frozen, odd-sized, zero-dimensional parameters, a buffer, dropout and blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 37)
        self.frozen = nn.Linear(37, 37)
        self.frozen.requires_grad_(False)
        self.blocks = nn.ModuleList([nn.Linear(37, 37) for _ in range(2)])
        # Larger than the threshold below which ZeRO-3 keeps a parameter whole.
        self.wide = nn.Linear(37, 2901, bias=False)
        self.narrow = nn.Linear(2901, 37)
        self.norm = nn.LayerNorm(37)
        self.gain = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(37, CLASSES, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(1.5))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.frozen(self.embed(tokens)).mean(1)
        for block in self.blocks:
            x = x + self.dropout(F.gelu(block(x)))
        x = x + self.narrow(F.gelu(self.wide(x)))
        return self.head(self.norm(x) * self.gain) * self.scale


class Normed(nn.Module):
    """BatchNorm, whose running statistics must not depend on who saw which micro-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 16)
        self.norms = nn.ModuleList([nn.BatchNorm1d(16), nn.BatchNorm1d(16, momentum=None)])
        self.head = nn.Linear(16, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).flatten(0, 1)
        for norm in self.norms:
            x = F.gelu(norm(x))
        return self.head(x.view(len(tokens), -1, 16).mean(1))


class Scaled(nn.Module):
    """A trained parameter without a dimension, as CLIP has one, and one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 9)
        self.mix = nn.Linear(9, 9)
        self.head = nn.Linear(9, CLASSES)
        self.logit_scale = nn.Parameter(torch.tensor(1.3))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.mix(F.relu(self.mix(self.embed(tokens)))).amax(1)
        return self.head(x) * self.logit_scale.exp()


class Blocked(nn.Module):
    """Two composite blocks with BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.2)
            )
            for _ in range(2)
        )
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens).mean(1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Samples(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """Tokens (5,), a label, and a weight that is zero for about a third of the samples."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.tokens = torch.randint(0, CLASSES, (count, 5), generator=generator)
        self.labels = torch.randint(0, CLASSES, (count,), generator=generator)
        self.weights = (torch.rand(count, generator=generator) > 0.3).float()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.tokens[index], self.labels[index], self.weights[index]


def adamw(parameters: Parameters) -> torch.optim.Optimizer:
    """Two groups, as everybody has them: decay for matrices, none for the rest.

    eps is above the rounding noise of a gradient: Adam would otherwise turn the noise of elements
    whose gradient cancels to 1e-8 into steps of the size of the learning rate.
    """
    decayed = [p for _, p in parameters.named() if p.ndim > 1]
    plain = [p for _, p in parameters.named() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=1e-3,
        eps=1e-6,
    )


def adagrad(parameters: Parameters) -> torch.optim.Optimizer:
    """Makes its state when it is made, before a step."""
    return torch.optim.Adagrad(parameters, lr=1e-2)


class Flag:
    """A preemption flag without signals."""

    requested = False
    cause = "the test"
    deadline: float | None = None


def make_job(
    ranks: Ranks,
    strategy: str,
    folder: Path,
    *,
    precision: str = "fp32",
    micro_batch: int = 4,
    global_batch: int = 20,
    model: Callable[[], nn.Module] = Awkward,
    optimizer: Callable[[Parameters], torch.optim.Optimizer] = adamw,
    local_world_size: int | None = None,
    exact: bool = False,
    **recipe: Any,
) -> Job:
    """Prepare a job under any strategy, on the process groups that there are."""
    environment = replace(
        RankEnvironment.from_environ(
            {"RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.world_size)}
            | {"LOCAL_RANK": str(ranks.rank), "LOCAL_WORLD_SIZE": str(ranks.world_size)}
        ),
        run=RunOptions(strategy=strategy, precision=precision, exact=exact),
        local_world_size=local_world_size or ranks.world_size,
        local_rank=ranks.rank % (local_world_size or ranks.world_size),
    )
    if strategy == "accelerate":
        from accelerate import Accelerator

        mixed, on_host = {"fp32": "no"}.get(precision, precision), ranks.device.type == "cpu"
        recipe = {"accelerator": Accelerator(cpu=on_host, mixed_precision=mixed)} | recipe
        # An Accelerator on CPUs sets this to what it likes, and other threads round otherwise.
        torch.set_num_threads(1)
    flag = cast(PreemptionFlag, Flag())
    run = Run(open_run(environment, ranks, flag, folder=RunFolder(folder), seed=11))
    arguments: dict[str, Any] = {
        # 47 samples in steps of 20: the last step of an epoch holds 7, the last micro-batch 3.
        "train": Samples(47),
        "epochs": 100,
        "max_grad_norm": 0.5,
        "save_every": "1000000 steps",
        "evaluate_every": "1000000 steps",
    }
    return run.prepare(
        model=model,
        optimizer=optimizer,
        micro_batch=micro_batch,
        global_batch=global_batch,
        **(arguments | recipe),
    )


def measured(scores: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> dict[str, Any]:
    """Return a metric of each kind that takes no table."""
    losses = F.cross_entropy(scores, labels, reduction="none")
    return {
        "loss": losses,
        "weighted": ((losses * weights).sum(), weights.sum()),
        "mean": metrics.mean(losses, weights),
        "accuracy": scores.argmax(-1) == labels,
    }


def train(
    job: Job, steps: int, call: Callable[[Any, torch.Tensor], torch.Tensor] | None = None
) -> None:
    """Train for some steps (at least 2); then the run saves and is left, as by a preemption.

    Args:
        job: prepared.
        steps: from where it is.
        call: how the model is called; None: as a whole.
    """
    # What is tried here is what a step computes: a busy machine must not give one up.
    notice_rounds.FINISH_S = math.inf
    last = job.step + steps
    flag = cast(Flag, job.run.preemption)
    flag.requested = False
    try:
        for step in job:
            for tokens, labels, weights in step:
                found = job.model(tokens) if call is None else call(job.model, tokens)
                losses = F.cross_entropy(found, labels, reduction="none")
                step.backward((losses * weights).sum(), count=weights.sum())
            # Said at the boundary that follows, and read at the one after.
            flag.requested = step.number + 2 == last
    except Preempted:
        assert job.step == last
        return
    raise AssertionError(f"the run ended by itself at step {job.step}")


def weights_of(
    folder: Path, step: int, keys: tuple[str, ...]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the whole tensors of a checkpoint, by neutral name."""
    with CheckpointStore(folder / "checkpoints").open(step) as reader:
        for spec in reader.manifest.specs():
            if spec.key in keys:
                yield spec.name, reader.read(spec.fqn, spec.key, 0, spec.numel)
