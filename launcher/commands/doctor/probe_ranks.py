"""What ranks find out together: run by relaunch as a module, on all nodes; it needs torch.

The first rank writes the answer as JSON to the file that is its argument.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from ...contract.environment import cuda_backend
from .facts import PairSpeed, RanksFacts
from .probes import look_at_node

if TYPE_CHECKING:
    import torch

_SUMMED_BYTES, _SENT_BYTES = 64 << 20, 8 << 20
_ON_CPU = 8
"""A CPU's ranks sum so many times less."""
_TIMES = 3
_MOST_PAIRS = 66
"""All pairs of 12 ranks; of more ranks each with its neighbour and with the first."""
_ANSWER_S = 120


def pairs_of(world_size: int) -> list[tuple[int, int]]:
    """Return which pairs are measured. Pure."""
    every = list(combinations(range(world_size), 2))
    if len(every) <= _MOST_PAIRS:
        return every
    rings = [(rank, rank + 1) for rank in range(world_size - 1)]
    stars = [(0, rank) for rank in range(2, world_size)]
    return [*rings, *stars][: max(_MOST_PAIRS, world_size - 1)]


def main() -> None:
    """Measure; called on every rank."""
    import torch
    import torch.distributed as dist

    # Ranks that share GPUs communicate through the host, and this measures that.
    on_gpu = cuda_backend(os.environ) is None and torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    backend = "cuda:nccl,cpu:gloo" if on_gpu else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=_ANSWER_S))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    # Before any rank is on a GPU: it would be taken for a process of somebody else's.
    node = look_at_node().to_json() if int(os.environ["LOCAL_RANK"]) == 0 else None
    host = torch.zeros(1)
    dist.all_reduce(host)  # on the host: clocks are read as all leave it
    left_at_s = time.time()
    if on_gpu:
        torch.cuda.set_device(device)
    factor = 1 if on_gpu else _ON_CPU
    size = _SUMMED_BYTES // factor // 4
    seconds = _best_s(_all_reduce(torch.ones(size, device=device)), device)
    sent = torch.ones(_SENT_BYTES // factor // 4, device=device)
    pairs = []
    for left, right in pairs_of(world_size):
        dist.barrier()
        if rank in (left, right):
            took_s = _best_s(_send(sent, rank == left, right if rank == left else left), device)
            speed = sent.numel() * 4 / took_s
            pairs.append(PairSpeed(left=left, right=right, bytes_per_s=speed))
    mine = {
        "host": socket.gethostname(),
        "left_at_s": left_at_s,
        "pairs": [asdict(pair) for pair in pairs if pair.left == rank],
        "node": node,
    }
    everyone: list[dict[str, object]] = [{}] * world_size
    dist.all_gather_object(everyone, mine, group=dist.new_group(backend="gloo"))
    if rank == 0:
        _answer(Path(sys.argv[1]), everyone, "nccl" if on_gpu else "gloo", size * 4 / seconds)
    dist.barrier()
    dist.destroy_process_group()


def _answer(path: Path, everyone: list[dict[str, object]], backend: str, speed: float) -> None:
    clocks = [float(str(one["left_at_s"])) for one in everyone]
    pairs = [pair for one in everyone for pair in one["pairs"]]  # type: ignore[attr-defined]
    found = RanksFacts(
        world_size=len(everyone),
        backend=backend,
        hosts=tuple(str(one["host"]) for one in everyone),
        all_reduce_bytes_per_s=speed,
        pairs=tuple(PairSpeed(**pair) for pair in pairs),
        clock_skew_s=max(clocks) - min(clocks),
    )
    nodes = [one["node"] for one in everyone if one["node"] is not None]
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"ranks": asdict(found), "nodes": nodes}), encoding="utf-8")
    part.replace(path)


def _all_reduce(values: torch.Tensor) -> Callable[[], None]:
    import torch.distributed as dist

    def once() -> None:
        dist.all_reduce(values)
        values.fill_(1.0)

    return once


def _send(values: torch.Tensor, sends: bool, peer: int) -> Callable[[], None]:
    import torch.distributed as dist

    def once() -> None:
        if sends:
            dist.send(values, peer)
            dist.recv(values[:1], peer)  # it has arrived
        else:
            dist.recv(values, peer)
            dist.send(values[:1], peer)

    return once


def _best_s(once: Callable[[], None], device: torch.device) -> float:
    """Return the shortest time of a few; the first opens the connection."""
    import torch

    once()
    best = float("inf")
    for _ in range(_TIMES):
        began = time.perf_counter()
        once()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return max(best, 1e-9)


if __name__ == "__main__":
    main()
