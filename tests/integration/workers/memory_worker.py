"""Trains a model of 12 million parameters for three steps and measures this rank's memory.

Usage: memory_worker.py OUT STRATEGY[:INIT][,STRATEGY...] [--as-malloc-likes]

Rank R writes OUT/STRATEGY-R.json, or OUT/STRATEGY:INIT-R.json: what was estimated, and by how many
bytes the resident memory grew while building and altogether. With --as-malloc-likes what was freed
may stay with the process, as glibc has it.
"""

import ctypes
import gc
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from launcher.contract.environment import RankEnvironment
from strategies import (
    Blueprint,
    BuildOptions,
    HostCommunicator,
    precision_for,
    process_groups,
    strategy_class,
)
from strategies.parallel.auto.measure import measure_model
from strategies.parallel.auto.memory_model import Spread, needs

WIDTH, DEPTH, ROWS, STEPS = 1000, 12, 500, 3
"""The buckets that DDP orders anew in the second step are all written in the third."""
_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3
"""Of mallopt, in glibc's malloc.h."""

torch.set_num_threads(1)


class Chain(nn.Module):
    """Twelve blocks of a million parameters."""

    def __init__(self, width: int = WIDTH, depth: int = DEPTH) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Peak:
    """The most resident memory since `begin`, above what there was then."""

    def begin(self) -> None:
        gc.collect()
        self.before = _resident("VmRSS")
        self._highest = 0
        self._forget()

    def highest(self) -> int:
        """Bytes since `begin`."""
        self.phase()
        return self._highest

    def phase(self) -> int:
        """Bytes since the last call of this."""
        found = _resident("VmHWM") - self.before
        self._highest = max(self._highest, found)
        self._forget()
        return found

    def _forget(self) -> None:
        # Writing 5 resets VmHWM (proc(5), clear_refs).
        Path("/proc/self/clear_refs").write_text("5")


def _resident(kind: str) -> int:
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(kind)) * 1024


def _return_what_is_freed() -> None:
    """Have each tensor of 64 KiB or more mapped on its own, so that freeing gives it back."""
    libc = ctypes.CDLL(None)
    assert libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16) == 1
    assert libc.mallopt(_M_ARENA_MAX, 1) == 1


def train(strategy, steps, rows, width, peak=None):
    """Steps of two micro-batches; returns the bytes after each forward, backward and step."""
    seen = []

    def note(what):
        if peak is not None:
            seen.append((what, peak.phase()))

    for _ in range(steps):
        for last in (False, True):
            x, y = torch.randn(rows, width), torch.zeros(rows, dtype=torch.int64)
            strategy.micro_step(is_last=last)
            loss = F.cross_entropy(strategy.module(x), y, reduction="sum")
            note("forward")
            strategy.backward(loss)
            del loss, x, y
            note("backward")
        strategy.step(2.0 * rows)
        note("step")
    return seen


def measured(asked, blueprint):
    """Return what was estimated and seen of one strategy."""
    ranks = blueprint.ranks
    name, _, init = asked.partition(":")
    if init:
        blueprint = replace(blueprint, options=replace(blueprint.options, init=init))
    by_name = init == "by-name"
    # A first strategy of a tiny model: libraries, threads and buffers of their own are there then.
    tiny = replace(blueprint, model=lambda: Chain(width=8, depth=2))
    train(strategy_class(name)(tiny), 2, rows=2, width=8)
    batch = (torch.randn(ROWS, WIDTH), torch.zeros(ROWS, dtype=torch.int64))
    sizes = measure_model(blueprint, batch, None)
    spread = Spread(ranks=ranks.world_size, shards=ranks.world_size, by_name=by_name)
    need = needs(sizes, (name,), spread)
    del batch
    peak = Peak()
    peak.begin()
    strategy = strategy_class(name)(blueprint)
    built = peak.phase()
    phases = train(strategy, STEPS, ROWS, WIDTH, peak)
    estimated = need[name]
    return {
        "estimated": asdict(estimated) | {"total": estimated.total},
        "building": built,
        "total": peak.highest(),
        "phases": phases,
    }


if __name__ == "__main__":
    out, names = Path(sys.argv[1]), sys.argv[2].split(",")
    if "--as-malloc-likes" not in sys.argv:
        _return_what_is_freed()
    environment = RankEnvironment.from_environ(os.environ)
    with process_groups(
        rank=environment.rank, local_rank=environment.local_rank, world_size=environment.world_size
    ) as ranks:
        blueprint = Blueprint(
            model=Chain,
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-4),
            precision=precision_for("fp32", "cpu"),
            max_grad_norm=None,
            seed=1,
            ranks=ranks,
            options=BuildOptions(local_world_size=ranks.world_size),
        )
        for name in names:
            found = measured(name, blueprint)
            (out / f"{name}-{ranks.rank}.json").write_text(json.dumps(found))
            HostCommunicator(ranks).all_gather(name)
