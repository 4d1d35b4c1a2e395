"""Exact sums of gradients that end on the ranks which own a part of each parameter.

Gradients are taken as they come, rounded into a bucket (gradient_sums.py says why), and the bucket
is summed over the ranks as soon as it is full. Which parameters share a bucket follows from the
model alone, and the buckets are summed in one order, whatever order a rank's backward has: so the
collectives are the same on every rank. What a rank owns of the sum is added to its running sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ...collectives.order_free import in_chunks, round_away_
from ...collectives.process_group import Ranks
from ...errors import ConfigError
from ...torch_internals import reduce_scatter
from .owners import add_of_others, rows_size_bytes
from .step_units import StepUnits

BUCKET_ELEMENTS = 1 << 22
"""Elements that are summed over the ranks at a time, in float64; one parameter may have more."""
_MOST_PADDING = 1.25
"""Where a bucket is spread evenly, one collective sends it; up to so many times its elements."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Elements [start, end) of a flattened parameter, which one rank owns."""

    rank: int
    start: int
    end: int


class PartitionSums:
    """The running sums of this rank's parts: 8 bytes for each of their elements, and one bucket."""

    def __init__(
        self,
        named: Sequence[tuple[str, torch.Tensor]],
        cuts: Mapping[str, Sequence[Cut]],
        ranks: Ranks,
        *,
        bucket_elements: int = BUCKET_ELEMENTS,
    ) -> None:
        """Take the trainable parameters, in the model's order, the same on every rank.

        Args:
            named: the parameters; of which no values are used.
            cuts: by name who owns what; all elements, each once.
            ranks: all of the run.
            bucket_elements: that are summed at a time.

        Raises:
            ConfigError: a parameter has a dtype whose sums would not be exact.
        """
        self._units = StepUnits(named, ranks)
        self._names = [name for name, _ in named]
        self._ranks = ranks
        sizes = [sum(cut.end - cut.start for cut in cuts[name]) for name in self._names]
        # About the order in which a backward makes gradients.
        self._buckets = [
            _Bucket(numbers, [cuts[self._names[n]] for n in numbers], ranks.world_size)
            for numbers in _filled(list(enumerate(sizes))[::-1], bucket_elements)
        ]
        longest = max((bucket.stride for bucket in self._buckets), default=0)
        self._shared = ranks.reserved_memory(rows_size_bytes(longest, ranks.world_size))
        self._memory = torch.zeros(
            max((bucket.size for bucket in self._buckets), default=0),
            dtype=torch.float64,
            device=ranks.device,
        )
        own = [bucket.length_of(ranks.rank) for bucket in self._buckets]
        self._flat = torch.zeros(sum(own), dtype=torch.float64, device=ranks.device)
        self._own = torch.split(self._flat, own)
        self._bucket_of = {n: at for at, bucket in enumerate(self._buckets) for n in bucket.numbers}
        self._come: dict[int, torch.Tensor] = {}
        self._next = 0
        """Of the buckets, the first that is not summed yet in this micro-batch."""

    @property
    def exponents(self) -> dict[str, int]:
        """By name, what is known of each parameter's gradients; the same on every rank."""
        return self._units.exponents

    def begin(self, exponents: Mapping[str, int], count: int) -> None:
        """Begin a step; see `StepUnits.begin`."""
        self._units.begin(exponents, count)
        self._flat.zero_()
        self._come, self._next = {}, 0

    def take(self, number: int, grad: torch.Tensor) -> None:
        """Take a whole gradient of this micro-batch; sums the buckets that are full with it.

        Called on every rank, in a backward.

        Args:
            number: of the parameter among those that were given.
            grad: of any shape.

        Raises:
            ConfigError: it has come before in this micro-batch.
        """
        if number in self._come or self._bucket_of[number] < self._next:
            raise ConfigError(
                f"--exact: the gradient of {self._names[number]} has come twice in a micro-batch, "
                "as with reentrant activation checkpointing. Use use_reentrant=False, or "
                "checkpoint_blocks of run.prepare."
            )
        self._come[number] = grad.detach()
        while self._next < len(self._buckets) and self._is_full(self._buckets[self._next]):
            self._sum_next()

    def finish(self) -> None:
        """End a micro-batch: sum what is left; what has not come is zero. On every rank."""
        while self._next < len(self._buckets):
            self._sum_next()
        self._next = 0

    def ask(self) -> None:
        """See `StepUnits.ask`. Called on every rank."""
        self._units.ask()

    def agree(self) -> list[str]:
        """End a step, after `ask`.

        Returns:
            The parameters whose sums may depend on the order after all.
        """
        return self._units.agree()[1]

    def totals(self) -> Iterator[tuple[str, Cut, torch.Tensor]]:
        """Yield (name, which elements, their sums in float64) of what this rank owns."""
        for bucket, own in zip(self._buckets, self._own, strict=True):
            for place in bucket.places:
                if place.cut.rank == self._ranks.rank:
                    begin = place.offset - bucket.begin_of(self._ranks.rank)
                    total = own[begin : begin + place.cut.end - place.cut.start]
                    yield self._names[place.number], place.cut, total

    def _is_full(self, bucket: _Bucket) -> bool:
        return all(number in self._come for number in bucket.numbers)

    def _sum_next(self) -> None:
        bucket, own = self._buckets[self._next], self._own[self._next]
        self._next += 1
        grads = {number: self._come.pop(number, None) for number in bucket.numbers}
        units = self._units.look(bucket.numbers, list(grads.values()))
        unit_of = dict(zip(bucket.numbers, units, strict=True))
        flat = self._memory[: bucket.size]
        for place in bucket.places:
            grad, cut = grads[place.number], place.cut
            room = flat[place.offset : place.offset + cut.end - cut.start]
            if grad is None:
                room.zero_()
            else:
                _round_into(room, grad.reshape(-1)[cut.start : cut.end], unit_of[place.number])
        self._reduce(bucket, flat)
        begin = bucket.begin_of(self._ranks.rank)
        own += flat[begin : begin + len(own)]

    def _reduce(self, bucket: _Bucket, flat: torch.Tensor) -> None:
        """Leave on each rank the sums of its own part of the bucket."""
        if self._ranks.world_size == 1:
            return
        if flat.is_cpu:
            rows = [
                flat[bucket.begin_of(rank) :][: bucket.length_of(rank)]
                for rank in range(self._ranks.world_size)
            ]
            add_of_others(rows[self._ranks.rank], rows, self._shared)
            return
        if bucket.is_even:
            begin = bucket.begin_of(self._ranks.rank)
            own = torch.empty_like(flat[begin : begin + bucket.stride])
            reduce_scatter(own, flat)
            flat[begin : begin + bucket.stride] = own
            return
        for rank in range(self._ranks.world_size):
            begin, length = bucket.begin_of(rank), bucket.length_of(rank)
            if length:
                dist.reduce(flat[begin : begin + length], dst=rank)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a bucket has a cut of a parameter."""

    number: int
    cut: Cut
    offset: int


class _Bucket:
    """Parameters that are summed together, laid out by who owns what."""

    def __init__(
        self, numbers: Sequence[int], cuts: Sequence[Sequence[Cut]], world_size: int
    ) -> None:
        self.numbers = list(numbers)
        owned: list[list[tuple[int, Cut]]] = [[] for _ in range(world_size)]
        for number, all_of in zip(numbers, cuts, strict=True):
            for cut in all_of:
                owned[cut.rank].append((number, cut))
        self._lengths = [sum(cut.end - cut.start for _, cut in held) for held in owned]
        total, self.stride = sum(self._lengths), max(self._lengths)
        self.is_even = self.stride * world_size <= _MOST_PADDING * total
        self._begins = [
            rank * self.stride if self.is_even else sum(self._lengths[:rank])
            for rank in range(world_size)
        ]
        self.size = self.stride * world_size if self.is_even else total
        self.places: list[_Place] = []
        for begin, held in zip(self._begins, owned, strict=True):
            offset = begin
            for number, cut in held:
                self.places.append(_Place(number=number, cut=cut, offset=offset))
                offset += cut.end - cut.start

    def begin_of(self, rank: int) -> int:
        """Return where the rank's part begins."""
        return self._begins[rank]

    def length_of(self, rank: int) -> int:
        """Return how many elements the rank owns."""
        return self._lengths[rank]


def _filled(sizes: Iterable[tuple[int, int]], most: int) -> Iterator[list[int]]:
    """Yield the numbers of (number, elements) pairs that go into one bucket; pure."""
    numbers: list[int] = []
    filled = 0
    for number, elements in sizes:
        if numbers and filled + elements > most:
            yield numbers
            numbers, filled = [], 0
        numbers.append(number)
        filled += elements
    if numbers:
        yield numbers


def _round_into(room: torch.Tensor, grad: torch.Tensor, unit: int) -> None:
    for part, piece in in_chunks(room, grad):
        round_away_(part.copy_(piece), unit)
