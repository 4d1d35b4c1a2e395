"""What exact sums take of memory: bytes of tensors with and without `--exact`, on CPU ranks.

usage: relaunch --nproc-per-node 2 scripts/exact_memory.py [OUT.json]

A chain of 12 layers, 12 million parameters, AdamW, two micro-batches a step. Counted is what
tensors hold on rank 0, and its own part of the memory that ranks share: what is left after three
steps, and the most within the third; without the bucket of DeepSpeed, 2 GB of which a CPU fills
what is needed, and which is not made with `--exact`. What a library such as gloo allocates by
itself is not seen. Prints a markdown table; OUT.json gets the numbers.
"""

import gc
import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from weakref import ref

import torch
import torch.nn.functional as F
from bench_table import machine, markdown_table
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from launcher.contract.environment import RankEnvironment
from strategies import (
    Blueprint,
    BuildOptions,
    Ranks,
    precision_for,
    process_groups,
    strategy_class,
)
from strategies.collectives.shared_memory import SharedMemory
from strategies.parallel.auto.live_bytes import tensors_in
from strategies.parallel.auto.memory_model import DEEPSPEED_BUCKET, MASTER_BYTES
from strategies.parallel.gradients.partition_sums import BUCKET_ELEMENTS

WIDTH, DEPTH, ROWS, STEPS, MICRO_BATCHES = 1000, 12, 8, 3, 2
STRATEGIES = ("ddp", "fsdp", "zero2", "zero3")
SUM_BYTES = 8
_MB = 1e6


class Chain(nn.Module):
    """Blocks of a million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(DEPTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (samples, WIDTH)."""
        for layer in self.layers:
            x = layer(x)
        return x


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes of tensors on one rank."""

    kept: int
    """After a step."""
    peak: int
    """The most within a step."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One strategy with and without exact sums."""

    strategy: str
    plain: Held
    exact: Held
    sums: int
    """8 bytes for each trainable element, divided by the ranks that share it."""
    bucket: int
    """What is reduced at a time, in float64; 0: nothing is besides the sums."""
    shared: int
    """This rank's own part of the memory in which ranks tell each other what they have of it."""


def main() -> None:
    """Measure on every rank, and print on the first."""
    torch.set_num_threads(1)
    environment = RankEnvironment.from_environ(os.environ)
    with process_groups(
        rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
    ) as ranks:
        rows = [_row(strategy, ranks) for strategy in STRATEGIES]
        if not ranks.is_coordinator:
            return
        if sys.argv[1:]:
            Path(sys.argv[1]).write_text(json.dumps([asdict(row) for row in rows]))
        print(_table(rows))
        print(f"\n{ranks.world_size} ranks. {machine('torch', 'deepspeed')}")


def _row(strategy: str, ranks: Ranks) -> Row:
    count = sum(parameter.numel() for parameter in Chain().parameters())
    largest = WIDTH * WIDTH
    # fully_shard reduces block by block, into a shard of its own.
    block = (largest + WIDTH) * (ranks.world_size + 1) // ranks.world_size
    bucket = {"ddp": 0, "fsdp": block}.get(strategy, max(BUCKET_ELEMENTS, largest))
    shards = 1 if strategy == "ddp" else ranks.world_size
    plain, _ = _held(strategy, ranks, exact=False)
    exact, shared = _held(strategy, ranks, exact=True)
    return Row(
        strategy=strategy,
        plain=plain,
        exact=exact,
        sums=SUM_BYTES * count // shards,
        bucket=SUM_BYTES * bucket,
        shared=shared,
    )


def _held(strategy: str, ranks: Ranks, *, exact: bool) -> tuple[Held, int]:
    assert ranks.neighbours is not None
    memory = SharedMemory(ranks.neighbours)
    ranks = replace(ranks, memory=memory)
    with Counted() as counted:
        held = strategy_class(strategy)(
            Blueprint(
                model=Chain,
                optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-4),
                precision=precision_for("fp32", "cpu"),
                max_grad_norm=1.0,
                seed=1,
                ranks=ranks,
                options=BuildOptions(local_world_size=ranks.world_size, exact=exact),
            )
        )
        exponents: Any = {}
        for _ in range(STEPS):
            gc.collect()
            counted.peak = 0
            exponents = _step(held, exponents, ranks.world_size)
        gc.collect()
    shared = memory.size_bytes
    return Held(kept=counted.now() + shared, peak=counted.peak + shared), shared


def _step(strategy: Any, exponents: Any, world_size: int) -> Any:
    if strategy.options.exact:
        strategy.begin_exact_step(exponents, MICRO_BATCHES * world_size)
    for number in range(MICRO_BATCHES):
        x, y = torch.randn(ROWS, WIDTH), torch.zeros(ROWS, dtype=torch.int64)
        strategy.micro_step(is_last=number == MICRO_BATCHES - 1)
        strategy.backward(F.cross_entropy(strategy.module(x), y, reduction="sum"))
    return strategy.step(float(MICRO_BATCHES * ROWS * world_size)).exponents


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory of tensors that are made within, until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages: dict[int, ref[torch.UntypedStorage]] = {}
        self.peak = 0
        """The most since it was set to 0, in bytes."""

    def now(self) -> int:
        """Return the bytes that are held."""
        held = [storage for of in self._storages.values() if (storage := of()) is not None]
        sizes = [storage.nbytes() for storage in held]  # fully_shard resizes to 0 and back
        return sum(size for size in sizes if size != MASTER_BYTES * DEEPSPEED_BUCKET)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out an operation, and look at its result."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it is made of others, whose operations come here too
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.is_meta:
                continue  # only torch's idea of a tensor
            storage = tensor.untyped_storage()
            if storage.filename is None:  # of memory that ranks share its own is added afterwards
                self._storages[storage._cdata] = ref(storage)
        self.peak = max(self.peak, self.now())
        return result


def _table(rows: list[Row]) -> str:
    head = ["strategy", "kept without (MB)", "kept with", "most without", "most with"]
    head += ["kept more", "most more", "at most"]
    return markdown_table(
        head,
        [
            [row.strategy]
            + [
                f"{number / _MB:.1f}"
                for number in (
                    row.plain.kept, row.exact.kept, row.plain.peak, row.exact.peak,
                    row.exact.kept - row.plain.kept, row.exact.peak - row.plain.peak,
                    row.sums + row.bucket + row.shared,
                )
            ]
            for row in rows
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
