"""The totals of gradients that every rank holds whole: each rank rounds its share, and all get all.

Exact sums are the same by any algorithm, so each takes the cheapest: on the host, numbers go to
their owner as they are, who adds what all have sent while it is in the cache, and sends the rounded
totals around; an accelerator's ranks reduce and gather by collectives, a bucket at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist

from ...collectives.process_group import Ranks
from .blocks import Block, Stretch
from .owners import send_around, wait_for
from .terms import STRETCH_ELEMENTS, Terms

_BUCKET_ON_HOST = 1 << 20
"""Elements that are summed over the ranks at a time: 8 MiB in float64, once sent and once received.
"""
_BUCKET_ON_DEVICE = 1 << 22
"""The same on an accelerator, where few launches matter more."""
_TERMS, _TOTALS = 1, 2
"""Tags of messages."""


def bucket_elements_of(device: torch.device) -> int:
    """Return how many elements are summed over the ranks at a time."""
    return _BUCKET_ON_HOST if device.type == "cpu" else _BUCKET_ON_DEVICE


class Reduction(Protocol):
    """Sums over the ranks."""

    def reduce(self, terms: Terms, shifts: Sequence[float], wholes: Sequence[torch.Tensor]) -> None:
        """Leave each block's totals in its tensor, on every rank. Called on every rank."""


def reduction_of(blocks: Sequence[Block], ranks: Ranks, bucket_elements: int) -> Reduction:
    """Return how these ranks sum."""
    if ranks.device.type == "cpu":
        return _OnHost(blocks, ranks, bucket_elements)
    return _OnDevice(blocks, ranks, bucket_elements)


@dataclass(frozen=True, kw_only=True)
class _Bucket:
    """A bucket of a block."""

    shares: list[Stretch]
    """By rank, what it owns."""
    own: list[Stretch]
    """What this one owns, in parts that its cache holds."""


class _OnHost:
    def __init__(self, blocks: Sequence[Block], ranks: Ranks, bucket_elements: int) -> None:
        self._blocks, self._ranks = blocks, ranks
        self._buckets = [
            [self._bucket(block, *bounds) for bounds in block.buckets(bucket_elements)]
            for block in blocks
        ]
        self._total = torch.zeros(STRETCH_ELEMENTS, dtype=torch.float64)
        # By rank: 8 bytes for each element of a share, which is what a message has at most.
        longest = max((len(one.shares[0]) for held in self._buckets for one in held), default=0)
        rooms = 0 if ranks.world_size == 1 else ranks.world_size
        self._sent, self._received = torch.zeros(2, rooms, longest, dtype=torch.float64)

    def _bucket(self, block: Block, begin: int, end: int) -> _Bucket:
        shares = [block.share(begin, end, rank) for rank in range(self._ranks.world_size)]
        return _Bucket(
            shares=[block.stretch(*share) for share in shares],
            own=block.stretches(*shares[self._ranks.rank], STRETCH_ELEMENTS),
        )

    def reduce(self, terms: Terms, shifts: Sequence[float], wholes: Sequence[torch.Tensor]) -> None:
        """Leave each block's totals in its tensor, on every rank. Called on every rank."""
        works: list[Any] = []
        for at, (whole, buckets) in enumerate(zip(wholes, self._buckets, strict=True)):
            for bucket in buckets:
                self._sum(terms, at, bucket, shifts, whole)
                parts = [whole[share.begin : share.end] for share in bucket.shares]
                own = [parts[self._ranks.rank]] * len(parts)
                works += send_around(own, parts, self._ranks.rank, tag=_TOTALS)
        wait_for(works)

    def _messages(self, terms: Terms, at: int, bucket: _Bucket) -> list[torch.Tensor]:
        """Return what each other rank has sent about this one's share, (rows, elements)."""
        if self._ranks.world_size == 1:
            return []
        sent: list[torch.Tensor] = []
        received: list[torch.Tensor] = []
        for rank, share in enumerate(bucket.shares):
            shape = (terms.rows, len(share))
            of = self._blocks[at], shape, terms
            received.append(_room(self._received[rank], *of))
            if rank == self._ranks.rank:
                sent.append(received[-1])
            else:
                sent.append(terms.message(at, share, _room(self._sent[rank], *of)))
        wait_for(send_around(sent, received, self._ranks.rank, tag=_TERMS))
        return received[: self._ranks.rank] + received[self._ranks.rank + 1 :]

    def _sum(
        self,
        terms: Terms,
        at: int,
        bucket: _Bucket,
        shifts: Sequence[float],
        whole: torch.Tensor,
    ) -> None:
        """Leave the totals of this rank's share in `whole`."""
        messages = self._messages(terms, at, bucket)
        begin = bucket.shares[self._ranks.rank].begin
        for stretch in bucket.own:
            total = self._total[: len(stretch)]
            own = [shifts[number] for number in stretch.numbers]
            terms.begin(total, at, stretch, own)
            here = slice(stretch.begin - begin, stretch.end - begin)
            for message in messages:
                terms.add(total, message[:, here], stretch, own)
            stretch.subtract(total, own)
            _round_into(whole[stretch.begin : stretch.end], total)


def _room(memory: torch.Tensor, block: Block, shape: tuple[int, int], terms: Terms) -> torch.Tensor:
    return memory.view(terms.dtype_of(block))[: shape[0] * shape[1]].view(shape)


class _OnDevice:
    def __init__(self, blocks: Sequence[Block], ranks: Ranks, bucket_elements: int) -> None:
        self._blocks, self._ranks = blocks, ranks
        self._buckets = [
            [block.stretch(*bounds) for bounds in block.buckets(bucket_elements)]
            for block in blocks
        ]
        longest = max((len(one) for held in self._buckets for one in held), default=0)
        self._total = torch.zeros(longest, dtype=torch.float64, device=ranks.device)

    def reduce(self, terms: Terms, shifts: Sequence[float], wholes: Sequence[torch.Tensor]) -> None:
        """Leave each block's totals in its tensor, on every rank. Called on every rank."""
        for at, (whole, buckets) in enumerate(zip(wholes, self._buckets, strict=True)):
            for bucket in buckets:
                total = self._total[: len(bucket)]
                own = [shifts[number] for number in bucket.numbers]
                terms.begin(total, at, bucket, own)
                bucket.subtract(total, own)
                self._spread(total, whole[bucket.begin : bucket.end])

    def _spread(self, total: torch.Tensor, whole: torch.Tensor) -> None:
        world_size = self._ranks.world_size
        if world_size == 1:
            _round_into(whole, total)
            return
        share = torch.empty_like(total[: len(total) // world_size])
        dist.reduce_scatter_tensor(share, total)
        part = torch.empty_like(whole[: len(share)])
        _round_into(part, share)
        dist.all_gather_into_tensor(whole, part)


def _round_into(room: torch.Tensor, total: torch.Tensor) -> None:
    """Round to float32, and then to a lower precision, as every strategy does."""
    room.copy_(total if room.dtype == torch.float32 else total.float())
