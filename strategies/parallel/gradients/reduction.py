"""The totals of gradients that every rank holds whole: each rank rounds its share, and all get all.

Exact sums are the same by any algorithm, so each takes the cheapest: on the host, numbers go to
their owner as they are, who adds what all tell while it is in the cache, and tells the rounded
totals to all, through memory that they share where they can; an accelerator's ranks reduce and
gather by collectives, a bucket at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ...collectives.process_group import Ranks
from ...collectives.shared_memory import SharedMemory
from ...torch_internals import all_gather, reduce_scatter
from .blocks import Block, Stretch
from .owners import send_around, wait_for
from .terms import STRETCH_ELEMENTS, Terms

_BUCKET_ON_HOST = 1 << 20
"""Elements that are summed over the ranks at a time: 8 MiB in float64, which are there twice."""
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
    if ranks.device.type != "cpu":
        return _OnDevice(blocks, ranks, bucket_elements)
    shares = _Shares(blocks, ranks, bucket_elements)
    memory = ranks.reserved_memory(_InMemory.size_bytes(shares))
    return _ByMessages(shares) if memory is None else _InMemory(shares, memory)


@dataclass(frozen=True, kw_only=True)
class _Bucket:
    """A bucket of a block."""

    shares: list[Stretch]
    """By rank, what it owns."""
    own: list[Stretch]
    """What this one owns, in parts that its cache holds."""

    def parts(self, whole: torch.Tensor) -> list[torch.Tensor]:
        """Return the shares in the block's tensor."""
        return [whole[share.begin : share.end] for share in self.shares]


class _Shares:
    """What each rank owns of each bucket, and the sums of what this one does."""

    def __init__(self, blocks: Sequence[Block], ranks: Ranks, bucket_elements: int) -> None:
        self.blocks, self.rank, self.num_ranks = blocks, ranks.rank, ranks.world_size
        self._buckets = [
            [self._bucket(block, *bounds) for bounds in block.buckets(bucket_elements)]
            for block in blocks
        ]
        self._total = torch.zeros(STRETCH_ELEMENTS, dtype=torch.float64)
        self.longest = max(
            (len(one.shares[0]) for held in self._buckets for one in held), default=0
        )
        """Elements of the largest share of a bucket."""

    def _bucket(self, block: Block, begin: int, end: int) -> _Bucket:
        shares = [block.share(begin, end, rank) for rank in range(self.num_ranks)]
        return _Bucket(
            shares=[block.stretch(*share) for share in shares],
            own=block.stretches(*shares[self.rank], STRETCH_ELEMENTS),
        )

    def of(self, wholes: Sequence[torch.Tensor]) -> Iterator[tuple[int, _Bucket, torch.Tensor]]:
        """Yield the number of its block, a bucket, and the block's tensor."""
        for at, (whole, buckets) in enumerate(zip(wholes, self._buckets, strict=True)):
            for bucket in buckets:
                yield at, bucket, whole

    def sum(
        self,
        terms: Terms,
        at: int,
        bucket: _Bucket,
        shifts: Sequence[float],
        messages: Sequence[torch.Tensor],
        total: torch.Tensor,
    ) -> None:
        """Leave in `total`, which is as long as a share, the totals of this rank's.

        Args:
            terms: of this rank.
            at: number of the block.
            bucket: of it.
            shifts: of every parameter.
            messages: of each other rank, (rows, elements) about this share; used up.
            total: to be filled.
        """
        begin = bucket.shares[self.rank].begin
        for stretch in bucket.own:
            sums = self._total[: len(stretch)]
            own = [shifts[number] for number in stretch.numbers]
            terms.begin(sums, at, stretch, own)
            here = slice(stretch.begin - begin, stretch.end - begin)
            for message in messages:
                terms.add(sums, message[:, here], stretch, own)
            stretch.subtract(sums, own)
            _round_into(total[here], sums)


class _ByMessages:
    """Between hosts, or one rank alone: numbers are sent to their owner, and totals around."""

    def __init__(self, shares: _Shares) -> None:
        self._shares, self._rank = shares, shares.rank
        # By rank: 8 bytes for each element of a share, which is what a message has at most.
        rooms = 0 if shares.num_ranks == 1 else shares.num_ranks
        self._sent, self._received = torch.zeros(2, rooms, shares.longest, dtype=torch.float64)

    def reduce(self, terms: Terms, shifts: Sequence[float], wholes: Sequence[torch.Tensor]) -> None:
        """Leave each block's totals in its tensor, on every rank. Called on every rank."""
        works: list[Any] = []
        for at, bucket, whole in self._shares.of(wholes):
            parts = bucket.parts(whole)
            own = parts[self._rank]
            messages = self._messages(terms, at, bucket)
            self._shares.sum(terms, at, bucket, shifts, messages, own)
            works += send_around([own] * len(parts), parts, self._rank, tag=_TOTALS)
        wait_for(works)

    def _messages(self, terms: Terms, at: int, bucket: _Bucket) -> list[torch.Tensor]:
        """Return what each other rank has sent about this one's share, (rows, elements)."""
        if self._shares.num_ranks == 1:
            return []
        sent: list[torch.Tensor] = []
        received: list[torch.Tensor] = []
        dtype = terms.dtype_of(self._shares.blocks[at])
        for rank, share in enumerate(bucket.shares):
            shape = (terms.rows, len(share))
            received.append(_room(self._received[rank], dtype, shape))
            if rank == self._rank:
                sent.append(received[-1])
            else:
                sent.append(terms.message(at, share, _room(self._sent[rank], dtype, shape)))
        wait_for(send_around(sent, received, self._rank, tag=_TERMS))
        return received[: self._rank] + received[self._rank + 1 :]


def _room(memory: torch.Tensor, dtype: torch.dtype, shape: tuple[int, int]) -> torch.Tensor:
    return memory.view(dtype)[: shape[0] * shape[1]].view(shape)


class _InMemory:
    """On one host: each rank reads what it owns where the others have written it.

    At a meeting they tell each other the terms of a bucket, and the totals of the one before.
    """

    def __init__(self, shares: _Shares, memory: SharedMemory) -> None:
        self._shares, self._memory = shares, memory
        self._others = [rank for rank in range(shares.num_ranks) if rank != shares.rank]

    @staticmethod
    def size_bytes(shares: _Shares) -> int:
        """Return what a rank tells at most at a meeting: 8 bytes for each element of another's
        share, and 4 for a total."""
        return shares.longest * (8 * (shares.num_ranks - 1) + 4)

    def reduce(self, terms: Terms, shifts: Sequence[float], wholes: Sequence[torch.Tensor]) -> None:
        """Leave each block's totals in its tensor, on every rank. Called on every rank."""
        before: list[torch.Tensor] = []
        for at, bucket, whole in self._shares.of(wholes):
            self._tell(terms, at, bucket)
            self._memory.meet()
            self._collect(before)
            messages = [self._message(terms, at, bucket, rank) for rank in self._others]
            before = bucket.parts(whole)
            own = before[self._shares.rank]
            self._shares.sum(terms, at, bucket, shifts, messages, own)
            self._memory.mine(self._totals_at, len(own), own.dtype).copy_(own)
        if before:
            self._memory.meet()
            self._collect(before)

    @property
    def _totals_at(self) -> int:
        return self._slot(self._shares.num_ranks, of=self._shares.rank)

    def _slot(self, about: int, *, of: int) -> int:
        """Return where a rank's memory has what it tells about another's share."""
        return 8 * self._shares.longest * (about - (about > of))

    def _tell(self, terms: Terms, at: int, bucket: _Bucket) -> None:
        dtype = terms.dtype_of(self._shares.blocks[at])
        for rank in self._others:
            share = bucket.shares[rank]
            begin = self._slot(rank, of=self._shares.rank)
            room = self._memory.mine(begin, terms.rows * len(share), dtype).view(terms.rows, -1)
            message = terms.message(at, share, room)
            if message is not room:
                room.copy_(message)

    def _message(self, terms: Terms, at: int, bucket: _Bucket, rank: int) -> torch.Tensor:
        """Return what another rank tells about this one's share, (rows, elements)."""
        dtype = terms.dtype_of(self._shares.blocks[at])
        length = terms.rows * len(bucket.shares[self._shares.rank])
        begin = self._slot(self._shares.rank, of=rank)
        return self._memory.theirs(rank, begin, length, dtype).view(terms.rows, -1)

    def _collect(self, parts: Sequence[torch.Tensor]) -> None:
        """Read the totals of a bucket, by rank."""
        if parts:
            for rank in self._others:
                part = parts[rank]
                part.copy_(self._memory.theirs(rank, self._totals_at, len(part), part.dtype))


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
        reduce_scatter(share, total)
        part = torch.empty_like(whole[: len(share)])
        _round_into(part, share)
        all_gather(whole, part)


def _round_into(room: torch.Tensor, total: torch.Tensor) -> None:
    """Round to float32, and then to a lower precision, as every strategy does."""
    room.copy_(total if room.dtype == torch.float32 else total.float())
