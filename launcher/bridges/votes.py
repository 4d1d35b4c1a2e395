"""Small sums by which all ranks take the same branch.

They go over a gloo group of their own, beside the framework's collectives: the ranks need not have
finished their device's work, and no number waits on a GPU.
"""

from __future__ import annotations

import torch
import torch.distributed as dist


class Votes:
    """Sums numbers over all ranks; with one rank, or without process groups, each is its own sum.

    Called on every rank, in the same order. Made where all ranks come: making it is a collective.
    """

    def __init__(self) -> None:
        self._group: dist.ProcessGroup | None = None
        self._is_coordinator = True
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")
            self._is_coordinator = dist.get_rank() == 0

    def sums(self, *numbers: float) -> list[float]:
        """Return the sum of each number over all ranks.

        Raises:
            RuntimeError: another rank is gone.
        """
        if self._group is None:
            return [float(number) for number in numbers]
        ours = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(ours, group=self._group)
        return [float(number) for number in ours.tolist()]

    def any(self, asked: bool) -> bool:
        """Return whether any rank says yes: the same on every rank."""
        return self.sums(asked)[0] > 0

    def of_coordinator(self, number: float) -> float:
        """Return the coordinator's number on every rank."""
        return self.sums(number if self._is_coordinator else 0.0)[0]

    def meet(self) -> None:
        """Return when every rank has come."""
        self.sums(0.0)

    def gathered(self, ours: torch.Tensor) -> list[torch.Tensor]:
        """Return each rank's bytes (uint8, one dimension, of any length), in rank order."""
        if self._group is None:
            return [ours]
        world_size, rank = dist.get_world_size(), dist.get_rank()
        lengths = [int(n) for n in self.sums(*(len(ours) * (r == rank) for r in range(world_size)))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(ours)] = ours
        everyone = [torch.zeros_like(padded) for _ in lengths]
        dist.all_gather(everyone, padded, group=self._group)
        return [one[:length].clone() for one, length in zip(everyone, lengths, strict=True)]
