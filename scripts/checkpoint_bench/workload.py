"""One rank's state and its training steps, which every method saves and disturbs alike."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from strategies import Ranks

WORLD = 2
SHARES = [4.0] * 32 + [1.0] * 32 + [0.01] * 32
"""The relative sizes of the tensors."""


class Workload:
    """96 tensors of mixed, odd sizes, together about so many MiB, and a step of fixed work."""

    def __init__(self, ranks: Ranks, mib: int) -> None:
        self.ranks = ranks
        self.rank = ranks.rank
        self.mib = mib
        torch.manual_seed(self.rank)
        unit = mib * 2**20 / 4 / sum(SHARES)
        self.tensors = {
            f"t{i}": torch.randn(int(unit * share) | 1) for i, share in enumerate(SHARES)
        }
        self.local_bytes = sum(t.numel() * 4 for t in self.tensors.values())
        self.buffers = {name: torch.zeros_like(t) for name, t in self.tensors.items()}
        self._matrix = torch.randn(700, 700)
        self._idle_step_s = 0.0
        self.computes_elsewhere = False
        """Whether a step leaves the processor free, as one on a GPU does."""

    def named(self) -> dict[str, torch.Tensor]:
        """Return the tensors under names that no other rank has."""
        return {f"r{self.rank}.{name}": tensor for name, tensor in self.tensors.items()}

    def warm_copy_s(self) -> float:
        """Return the least of five warm copies of all local bytes, on all ranks at once."""
        taken = []
        for _ in range(5):
            dist.barrier()
            began = time.perf_counter()
            for name, tensor in self.tensors.items():
                self.buffers[name].copy_(tensor)
            taken.append(time.perf_counter() - began)
        return min(taken)

    def calibrate(self) -> None:
        """Note how long a step takes just now, on all ranks at once: cores change their speed."""
        dist.barrier()
        self._idle_step_s = statistics.median(self._step_s() for _ in range(15))

    def train_until(
        self, is_done: Callable[[], bool], before_update: Callable[[], None] = lambda: None
    ) -> float:
        """Train until something is done; return by how many seconds the steps were slower.

        Before the end of each step, when a run would change its state, `before_update` is called;
        its time does not count as the step's.
        """
        slower_s = 0.0
        while not is_done():
            slower_s += self._step_s() - self._idle_step_s
            before_update()
        return max(0.0, slower_s)

    def _step_s(self) -> float:
        began = time.perf_counter()
        if self.computes_elsewhere:
            time.sleep(self._idle_step_s)
            return time.perf_counter() - began
        for _ in range(4):
            torch.mm(self._matrix, self._matrix)
        return time.perf_counter() - began


def largest(value: float) -> float:
    """Return the largest of all ranks' values."""
    tensor = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor)


def sync_tree(path: Path) -> None:
    """Sync a folder, and all that is in it."""
    import os

    for one in [*path.rglob("*"), path]:
        fd = os.open(one, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
