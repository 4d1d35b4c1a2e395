"""Whether ranks that should hold the same weights hold the same bits.

Replicas start equal and are updated by the same numbers, so that nothing ever has to be sent to
keep them so, and nothing shows where they are not: a rank that has changed a weight alone trains
another model, and a checkpoint is then made of both. At every save the ranks compare all of it, and
on the way a part after some steps, with sums that go over the ranks anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from zlib import crc32 as plain_crc32

import torch

from checkpointing import JSON
from checkpointing.storage.checksum import crc32

from ..errors import StrategyError
from .process_group import HostCommunicator

EVERY_STEPS = 16
SLICE_BYTES = 1 << 20
MOST_PIECES = 32
"""Compared after so many steps, one part after the other: a few hundredths of a millisecond for
each step."""
_BITS = 20
"""Of what is summed; see `boundary`."""
_CHUNK = 1 << 20
"""Elements of a tensor on an accelerator that are widened at a time."""
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of an element, the dtype that shows its bits."""


@dataclass(frozen=True)
class Replicas:
    """What a rank holds of which others hold the same."""

    named: Sequence[tuple[str, torch.Tensor]] = ()
    group: int | None = None
    """Ranks with the same number hold the same; None: all ranks do."""
    buffers: Callable[[], Sequence[tuple[str, torch.Tensor | None]]] = tuple
    """Returns more, each time as it is then: a forward may put another in its place."""

    def held(self) -> list[tuple[str, torch.Tensor]]:
        """Return all of it, with the same names on every rank of the group. No collective."""
        live = ((n, torch.empty(0) if b is None else b.detach()) for n, b in self.buffers())
        return [*self.named, *live]

    def digests(self) -> list[int]:
        """Return a number of 32 bits for each tensor. No collective."""
        return digests_of(tensor for _, tensor in self.held())

    def digest_after(self, step: int) -> int:
        """Return a number for the part whose turn it is after a step; 0 where none is."""
        if step % EVERY_STEPS or self.group is not None:
            return 0
        tensors = [tensor for _, tensor in self.held()]
        if not tensors:
            return 0
        turns = turns_of([(t.numel(), t.element_size()) for t in tensors])
        turn = turns[step // EVERY_STEPS % len(turns)]
        pieces = (tensors[number].detach().reshape(-1)[a:b] for number, a, b in turn)
        return _combined(digests_of(pieces)) % (1 << _BITS)

    def summary(self) -> JSON:
        """Return what the ranks compare at a save. No collective."""
        digests = self.digests()
        return [self.group, _combined(digests)] if digests else None


def digests_of(tensors: Iterable[torch.Tensor]) -> list[int]:
    """Return for each tensor 32 bits that follow from its bits and their places.

    NaN and -0.0 are bits as any others. The same numbers on ranks of one kind of device; there is
    one wait for an accelerator.
    """
    flat = [tensor.detach().reshape(-1).contiguous() for tensor in tensors]
    on_device = [one for one in flat if one.device.type != "cpu"]
    sums = iter(torch.stack([place_weighted(t) for t in on_device]).tolist() if on_device else ())
    return [
        crc32(memoryview(one.view(torch.uint8).numpy()))  # type: ignore[arg-type]
        if one.device.type == "cpu"
        else folded(next(sums))
        for one in flat
    ]


def place_weighted(flat: torch.Tensor) -> torch.Tensor:
    """Return the sum, int64 and 0-dim, of all elements' bits, each times a number of its place."""
    # A complex number of 16 bytes is two of 8.
    bits = flat.view(INTEGERS.get(flat.element_size(), torch.int64))
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for begin in range(0, bits.numel(), _CHUNK):
        chunk = bits[begin : begin + _CHUNK].to(torch.int64)
        places = torch.arange(begin, begin + chunk.numel(), device=flat.device)
        # By odd numbers, which have inverses: a change of one element always changes the sum.
        total += (chunk * (2 * places + 1)).sum()
    return total


def folded(number: int) -> int:
    """Return 32 bits of 64."""
    return (number ^ (number >> 32)) & 0xFFFFFFFF


def turns_of(sizes: Sequence[tuple[int, int]]) -> list[list[tuple[int, int, int]]]:
    """Cut tensors into what is compared in one turn: at most SLICE_BYTES, of MOST_PIECES; pure.

    Args:
        sizes: (elements, bytes of an element) of each tensor.

    Returns:
        In each turn (number of the tensor, first element, end).
    """
    turns: list[list[tuple[int, int, int]]] = [[]]
    room_bytes = SLICE_BYTES
    for number, (numel, width) in enumerate(sizes):
        begin = 0
        while begin < numel:
            if room_bytes < width or len(turns[-1]) == MOST_PIECES:
                turns.append([])
                room_bytes = SLICE_BYTES
            end = min(numel, begin + room_bytes // width)
            turns[-1].append((number, begin, end))
            room_bytes -= (end - begin) * width
            begin = end
    return turns


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
    """Compare what the ranks have reported of their replicas. Called on every rank, with the same.

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
    reported = {tuple(one) for one in summaries if one is not None}
    return len({group for group, _ in reported}) < len(reported)


def _sentence(replicas: Replicas, communicator: HostCommunicator, step: int) -> str:
    """Return what differs. Called on every rank."""
    everyone: list[Any] = communicator.all_gather([replicas.group, replicas.digests()])
    found = first_difference([one[0] for one in everyone], [one[1] for one in everyone])
    is_buffer = False
    if found is None:
        seen = f"some ranks held other weights than the rest just before step {step} ended"
    else:
        rank, right, tensor = found
        held = replicas.held()
        name = held[tensor][0] if tensor < len(held) else "its last weights"
        is_buffer = tensor >= len(replicas.named)
        seen = f"after step {step} rank {rank} holds another {name} than rank {right}"
    own = (
        "A buffer that each rank may hold in its own way is one with persistent=False. "
        if is_buffer
        else ""
    )
    return (
        f"{seen}, and all should hold the same. Earlier checkpoints are not affected; this "
        "state is not saved. Look for weights that are changed on one rank only (in a loop of "
        "your own, under `if rank == 0`, by random numbers, in a forward from its own samples). "
        f"{own}On processors of several kinds, whose last bits may differ, use --strategy zero1, "
        "which keeps each weight in one place."
    )


def _combined(digests: Sequence[int]) -> int:
    return plain_crc32(b"".join(number.to_bytes(4, "little") for number in digests))
