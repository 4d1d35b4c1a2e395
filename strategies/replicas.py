"""Whether ranks that should hold the same weights hold the same bits.

Replicas start equal and are updated by the same numbers, so that nothing ever has to be sent to
keep them so, and nothing shows where they are not: a rank that has changed a weight alone trains
another model, and a checkpoint is then made of both. At every save the ranks compare all of it, and
on the way a part after some steps, with sums that go over the ranks anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from zlib import crc32 as plain_crc32

import torch

from checkpointing import JSON
from checkpointing.checksum import crc32

from .errors import StrategyError
from .process_group import HostCommunicator

EVERY_STEPS = 16
SLICE_BYTES = 1 << 20
"""Compared after so many steps, one part after the other. Read at 2 GB/s and more, that is 0.03 ms
for each step."""
_BITS = 20
"""Of what is summed; see `boundary`."""
_CHUNK = 1 << 20
"""Elements of a tensor on an accelerator that are widened at a time."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Replicas:
    """What a rank holds of which others hold the same."""

    named: Sequence[tuple[str, torch.Tensor]] = ()
    group: int | None = None
    """Ranks with the same number hold the same; None: all ranks do."""

    def digests(self) -> list[int]:
        """Return a number of 32 bits for each tensor. No collective."""
        return [digest(tensor) for _, tensor in self.named]

    def digest_after(self, step: int) -> int:
        """Return a number for the part whose turn it is after a step; 0 where none is."""
        if step % EVERY_STEPS or self.group is not None or not self.named:
            return 0
        pieces = slice_of([tensor for _, tensor in self.named], step // EVERY_STEPS)
        return _combined([digest(piece) for piece in pieces]) % (1 << _BITS)

    def summary(self) -> JSON:
        """Return what the ranks compare at a save. No collective."""
        return [self.group, _combined(self.digests())] if self.named else None


def digest(tensor: torch.Tensor) -> int:
    """Return 32 bits that follow from the bits of a tensor and their places, also of NaN and -0.0.

    The same number on ranks of one kind of device.
    """
    if tensor.numel() == 0:
        return 0
    flat = tensor.detach().reshape(-1)
    if flat.device.type == "cpu":
        return crc32(memoryview(flat.view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return weighted_sum(flat)


def weighted_sum(flat: torch.Tensor) -> int:
    """Return 32 bits of the sum of all elements' bits, each times a number of its place.

    For what is not in the host's memory; with one wait for the device.
    """
    bits = flat.view(_INTEGERS[flat.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for begin in range(0, flat.numel(), _CHUNK):
        chunk = bits[begin : begin + _CHUNK].to(torch.int64)
        places = torch.arange(begin, begin + chunk.numel(), device=flat.device)
        # By odd numbers, which have inverses: a change of one element always changes the sum.
        total += (chunk * (2 * places + 1)).sum()
    value = int(total)
    return (value ^ (value >> 32)) & 0xFFFFFFFF


def slice_of(tensors: Sequence[torch.Tensor], number: int) -> list[torch.Tensor]:
    """Return the pieces of the `number`-th SLICE_BYTES of tensors end to end, going around."""
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    count = max(1, -(-sum(sizes) // SLICE_BYTES))
    low = number % count * SLICE_BYTES
    high, begin, pieces = low + SLICE_BYTES, 0, []
    for tensor, size in zip(tensors, sizes, strict=True):
        first, last = max(low, begin), min(high, begin + size)
        if first < last:
            width = tensor.element_size()
            # An element that a border cuts belongs to both parts.
            own = slice((first - begin) // width, -(-(last - begin) // width))
            pieces.append(tensor.detach().reshape(-1)[own])
        begin += size
    return pieces


def first_difference(
    groups: Sequence[int | None], digests: Sequence[Sequence[int]]
) -> tuple[int, int, int] | None:
    """Return (rank, another rank, number of the tensor) of the first that differ; pure.

    What most ranks of a group hold counts as right, and where it is as many, the lowest rank's.
    """
    for tensor in range(max(map(len, digests), default=0)):
        for group in dict.fromkeys(groups):
            ranks = [rank for rank, one in enumerate(groups) if one == group]
            values = {rank: next(islice(digests[rank], tensor, None), None) for rank in ranks}
            (usual, _), *_ = Counter(values.values()).most_common(1)
            right = next(rank for rank in ranks if values[rank] == usual)
            for rank in ranks:
                if values[rank] != usual:
                    return rank, right, tensor
    return None


def require_equal(
    replicas: Replicas, summaries: Sequence[Any], communicator: HostCommunicator, *, step: int
) -> None:
    """Compare what the ranks have told of their replicas. Called on every rank, with the same.

    Raises:
        StrategyError: on every rank, naming the first rank and tensor that differ.
    """
    if not _differ(summaries):
        return
    raise StrategyError(_sentence(replicas, communicator, step))


def refuse_different(replicas: Replicas, communicator: HostCommunicator, *, step: int) -> None:
    """End a run whose ranks have found that a part differs. Called on every rank.

    Raises:
        StrategyError: always.
    """
    raise StrategyError(_sentence(replicas, communicator, step))


def _differ(summaries: Sequence[Any]) -> bool:
    told = {tuple(one) for one in summaries if one is not None}
    return len({group for group, _ in told}) < len(told)


def _sentence(replicas: Replicas, communicator: HostCommunicator, step: int) -> str:
    """Return what differs. Called on every rank."""
    everyone: list[Any] = communicator.all_gather([replicas.group, replicas.digests()])
    found = first_difference([one[0] for one in everyone], [one[1] for one in everyone])
    if found is None:
        seen = f"some ranks held other weights than the rest just before step {step} ended"
    else:
        rank, right, tensor = found
        name = replicas.named[tensor][0] if tensor < len(replicas.named) else "its last weights"
        seen = f"after step {step} rank {rank} holds another {name} than rank {right}"
    return (
        f"{seen}, and all should hold the same. The checkpoints made before are as they were; this "
        "state is not saved. Look for weights that are changed on one rank alone (in a loop of "
        "your own, under `if rank == 0`, by random numbers, in a forward from its own samples). "
        "On processors of several kinds, whose last bits may differ, use --strategy zero1, which "
        "keeps each weight in one place."
    )


def _combined(digests: Sequence[int]) -> int:
    return plain_crc32(b"".join(number.to_bytes(4, "little") for number in digests))
