"""Ranks as threads that send each other tensors."""

import faulthandler
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
import torch
import torch.distributed as dist

from strategies import Ranks
from strategies.collectives.shared_memory import SharedMemory
from tests.strategies.collectives.connected import connected

LIMIT_S = 60
T = TypeVar("T")


class Group:
    """What `torch.distributed` is to ranks that are threads."""

    def __init__(self, world_size: int) -> None:
        self.rank = threading.local()
        self._sent: dict[Any, SimpleQueue[torch.Tensor]] = {}
        self._met = threading.Barrier(world_size, timeout=LIMIT_S)
        self._all: list[torch.Tensor] = [torch.empty(0)] * world_size

    def get_rank(self, group: tuple[int, ...] | None) -> int:
        own = int(self.rank.own)
        return own if group is None else group.index(own)

    def isend(self, tensor: torch.Tensor, group: None, group_dst: int, tag: int) -> Any:
        assert tensor.is_contiguous()
        assert tensor.numel()
        self._queue(self.rank.own, group_dst, tag).put(tensor.clone())
        return SimpleNamespace(wait=lambda: None)

    def irecv(self, tensor: torch.Tensor, group: None, group_src: int, tag: int) -> Any:
        assert tensor.is_contiguous()
        assert tensor.numel()
        queue = self._queue(group_src, self.rank.own, tag)
        return SimpleNamespace(wait=lambda: tensor.copy_(queue.get(timeout=LIMIT_S)))

    def _queue(self, *of: int) -> "SimpleQueue[torch.Tensor]":
        # In one operation: two threads that both found none would each have a queue of its own.
        return self._sent.setdefault(of, SimpleQueue())

    def _gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self._all[self.rank.own] = tensor.clone()
        self._met.wait()
        found = list(self._all)
        self._met.wait()
        return found

    def all_reduce(self, tensor: torch.Tensor, op: Any) -> None:
        assert op == dist.ReduceOp.MAX
        tensor.copy_(torch.stack(self._gather(tensor)).amax(0))

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        tensor.copy_(self._gather(tensor)[src])

    def reduce_scatter_single(self, output: torch.Tensor, given: torch.Tensor) -> None:
        total = torch.stack(self._gather(given)).sum(0)
        output.copy_(total.chunk(len(self._all))[self.rank.own])

    def all_gather_single(self, output: torch.Tensor, given: torch.Tensor) -> None:
        output.copy_(torch.cat(self._gather(given)))


def as_ranks(
    monkeypatch: pytest.MonkeyPatch,
    world_size: int,
    rank_main: Callable[[Ranks], T],
    *,
    share_memory: bool = False,
) -> list[T]:
    """What each of so many ranks returns, which are threads."""
    group = Group(world_size)
    for name in vars(Group):
        if not name.startswith("_"):
            monkeypatch.setattr(dist, name, getattr(group, name), raising=False)

    channels = connected(world_size, limit_s=LIMIT_S)

    def run(rank: int) -> T:
        group.rank.own = rank
        place = Ranks(
            rank=rank,
            world_size=world_size,
            device=torch.device("cpu"),
            host_group=cast(dist.ProcessGroup, None),
            neighbours=channels[rank] if share_memory else None,
            memory=SharedMemory(channels[rank]) if share_memory else None,
        )
        return rank_main(place)

    with ThreadPoolExecutor(world_size) as pool:
        running = [pool.submit(run, rank) for rank in range(world_size)]
        try:
            return [one.result(LIMIT_S) for one in running]
        except TimeoutError:
            faulthandler.dump_traceback()  # where each rank waits
            raise
