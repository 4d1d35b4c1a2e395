"""What is measured of a way to save: how long the training stands still, and until it is safe."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch.distributed as dist

from .workload import Workload


@dataclass(frozen=True, kw_only=True)
class Saved:
    """How one save went, in seconds."""

    stall_s: float
    """The training stood still."""
    lost_s: float
    """That, and by how much the steps were slower until all was durable."""
    save_s: float
    """Until all was durable."""


class Method(Protocol):
    """One way to save and load the state. Every method is called on every rank."""

    name: str

    def save(self, path: Path) -> Saved:
        """Save to a folder that may exist and is empty."""

    def load(self, path: Path) -> int | None:
        """Load it; return the bytes that this rank needed, None where loading is not compared."""

    def close(self) -> None:
        """End what was started."""


class Blocking:
    """A method during which the training stands still."""

    def __init__(self, work: Workload) -> None:
        self.work = work

    def save(self, path: Path) -> Saved:
        """Save, from one barrier to the next."""
        return timed(lambda: self.write(path))

    def write(self, path: Path) -> None:
        """Save and make it durable."""
        raise NotImplementedError

    def load(self, path: Path) -> int | None:
        """Loading is not compared."""
        return None

    def close(self) -> None:
        """Nothing was started."""


def timed(save: Callable[[], object]) -> Saved:
    """Return how long something takes from one barrier to the next."""
    dist.barrier()
    began = time.perf_counter()
    save()
    dist.barrier()
    seconds = time.perf_counter() - began
    return Saved(stall_s=seconds, lost_s=seconds, save_s=seconds)
