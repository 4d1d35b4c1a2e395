"""What ranks tell each other on the host: sums of a few numbers, and messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist

from ..errors import DesyncError
from .equality import all_equal, summands

SAME_ORDER = (
    "All ranks must take the same steps in the same order: no step.evaluate, job.test or "
    "job.export under `if rank == 0`."
)
MOST_NUMBERS = 30
"""In one sum; what is longer goes by a collective of its own."""


class PendingSum(Protocol):
    """A sum under way."""

    def wait(self) -> list[float]:
        """Return the sums, the same on every rank; again, if asked again."""


class HostChannel(Protocol):
    """Every method is called on every rank, in the same order."""

    def start(self, values: Sequence[float]) -> PendingSum:
        """Start to sum each of these float64 numbers over the ranks; as many on every rank.

        MOST_NUMBERS at most. Where a rank sums another number of them, `wait` raises DesyncError.
        """

    def gather(self, message: bytes) -> list[bytes] | None:
        """Return every rank's message, in rank order, on rank 0."""

    def broadcast(self, message: bytes) -> bytes:
        """Return rank 0's message."""


class _SumInGroup:
    """Always as long, and with its own number of numbers: gloo aborts where lengths differ."""

    def __init__(self, values: Sequence[float], group: dist.ProcessGroup) -> None:
        assert len(values) <= MOST_NUMBERS
        self._num_values, self._group = len(values), group
        padding = [0.0] * (MOST_NUMBERS - len(values))
        self._vector = torch.tensor(
            [*summands(len(values)), *values, *padding], dtype=torch.float64
        )
        self._work = dist.all_reduce(self._vector, group=group, async_op=True)

    def wait(self) -> list[float]:
        assert self._work is not None
        self._work.wait()
        count, squares, *totals = self._vector.tolist()
        if not all_equal(count, squares, self._group.size()):
            raise DesyncError(
                f"rank {self._group.rank()} sums {self._num_values} numbers over the ranks, and "
                f"others sum something else. {SAME_ORDER}"
            )
        return totals[: self._num_values]


class GroupChannel:
    """By a gloo group: between any hosts, in threads of its own."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    def start(self, values: Sequence[float]) -> PendingSum:
        """Start to sum each of these float64 numbers over the ranks; as many on every rank."""
        return _SumInGroup(values, self._group)

    def gather(self, message: bytes) -> list[bytes] | None:
        """Return every rank's message, in rank order, on rank 0."""
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self._group.size())]
        dist.all_gather(sizes, torch.tensor([len(message)]), group=self._group)
        padded = torch.zeros(max(int(size) for size in sizes), dtype=torch.uint8)
        padded[: len(message)] = _as_tensor(message)
        if self._group.rank() != 0:
            dist.gather(padded, None, group=self._group, group_dst=0)
            return None
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.gather(padded, parts, group=self._group, group_dst=0)
        return [_as_bytes(p[: int(size)]) for p, size in zip(parts, sizes, strict=True)]

    def broadcast(self, message: bytes) -> bytes:
        """Return rank 0's message."""
        size, content = torch.tensor([len(message)]), _as_tensor(message)
        dist.broadcast(size, group=self._group, group_src=0)
        if self._group.rank() != 0:
            content = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(content, group=self._group, group_src=0)
        return _as_bytes(content)


def _as_tensor(message: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(message), dtype=torch.uint8)


def _as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()
