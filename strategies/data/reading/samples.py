"""Reading the samples of a batch: each has random numbers of its own, whichever process reads it.

torch's, numpy's and `random`'s global streams are seeded by the sample, so that what a data set
draws (a crop, noise, a mask) is the same on any number of ranks and loader workers, after a resume,
and when a worker has died and its batch is read again.

[Note: what that costs] Seeding all three takes about 8 us, of which torch 1. A data set that draws
nothing from numpy and `random` should not pay for them: the first batch shows whether it does. If
not, they are seeded once for a whole batch, and looked at after it; should they have been drawn
from after all, the batch is read again, and each sample has them seeded from then on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch.utils.data import StackDataset, Subset, get_worker_info

from ...errors import DataNotReady
from ..kept_generators import KeptGenerators
from ..seeding import seed_for_sample, seed_of, seed_streams, seed_torch_here, seeds_of
from .stacking import stack

Collate = Callable[[list[Any]], Any]
"""From the samples of a micro-batch, in order, to the batch."""


class MapDataset(Protocol):
    """What a data set must offer: a length and samples by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class IndexList:
    """The samples of one micro-batch."""

    indices: list[int]
    stream: str
    """The name of their random numbers: with the index it gives the seed of a sample."""

    def seed(self, what: object) -> int:
        """Return the seed of a sample, or of a part of the work on the whole micro-batch."""
        return seed_of(self.stream, what)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield each index with its seed."""
        return zip(self.indices, seeds_of(self.stream, self.indices), strict=True)


class SampleReader:
    """Reads and collates micro-batches, in this process or in a loader worker.

    Args:
        dataset: where the samples are.
        collate: makes a batch of them; None: torch's way.
        stops: asked before each sample; True: DataNotReady is raised.
    """

    def __init__(
        self,
        dataset: MapDataset,
        collate: Collate | None = None,
        stops: Callable[[], bool] | None = None,
    ) -> None:
        self.dataset = dataset
        self._collate = collate
        self._stops = stops
        self._reads_whole_batches = reads_whole_batches(dataset)
        self._kept: KeptGenerators | None = None
        """Generators of the data set's own; None: none was read yet in this process."""
        self._draws: bool | None = None
        """Whether samples draw from numpy, `random` or what is kept; None: none was read yet."""

    def __getitems__(self, asked: IndexList) -> Any:
        """Return the batch; torch's name for reading several samples at once."""
        samples = self.read(asked)
        first = asked.indices[0]
        if self._collate is None:
            return stack(samples, asked.indices)
        self._seed_all(asked.seed(f"collate/{first}"))
        return self._collate(samples)

    def read(self, asked: IndexList) -> list[Any]:
        """Return the samples, before they are made a batch."""
        if self._kept is None:
            # Here and not where it was made: a worker may have other copies.
            self._kept = KeptGenerators(dataset=self.dataset, collate=self._collate)
        if self._reads_whole_batches:
            self._may_stop()
            # The order in which its samples draw is its own affair.
            self._seed_all(asked.seed(f"batch/{asked.indices[0]}"))
            found: list[Any] = self.dataset.__getitems__(asked.indices)  # type: ignore[attr-defined]
            return found
        if self._draws is None:
            return self._first(asked)
        if not self._draws and (samples := self._without_draws(asked)) is not None:
            return samples
        return [self._seeded(index, seed) for index, seed in asked]

    def _first(self, asked: IndexList) -> list[Any]:
        """Read samples and learn whether they draw."""
        samples, draws = [], False
        for index, seed in asked:
            samples.append(self._seeded(index, seed))
            draws = draws or self._was_drawn_from(seed)
        self._draws = draws
        return samples

    def _without_draws(self, asked: IndexList) -> list[Any] | None:
        """Read samples that are not expected to draw; None: they do, and will be seeded each."""
        common = asked.seed(f"batch/{asked.indices[0]}")
        self._seed_all(common)
        samples = []
        try:
            for index, seed in asked:
                self._may_stop()
                seed_torch_here(seed)
                samples.append(self.dataset[index])
        except DataNotReady:
            raise
        except Exception:
            if not self._was_drawn_from(common):
                raise
            self._draws = True
            return None
        self._draws = self._was_drawn_from(common)
        return None if self._draws else samples

    def _seeded(self, index: int, seed: int) -> Any:
        self._may_stop()
        seed_for_sample(seed)
        if self._kept:
            self._kept.seed(seed)
        return self.dataset[index]

    def _seed_all(self, value: int) -> None:
        seed_streams(value)
        if self._kept:
            self._kept.seed(value)

    def _was_drawn_from(self, value: int) -> bool:
        """Return whether anything but torch was drawn from since it was seeded; moves it."""
        is_kept_drawn = self._kept is not None and not self._kept.are_as_seeded(value)
        return _was_drawn_from(value) or is_kept_drawn

    def _may_stop(self) -> None:
        if self._stops is not None and self._stops():
            raise DataNotReady


def as_read(batch: Any) -> Any:
    """Return what `SampleReader` has made: nothing is left to be done for DataLoader."""
    return batch


class WorkerStart:
    """What a loader worker does before it reads: it shows the script its own data set.

    Args:
        init: what the script wants done, with the worker's number.
    """

    def __init__(self, init: Callable[[int], object] | None) -> None:
        self._init = init

    def __call__(self, worker_id: int) -> None:
        """Do it. Called by torch in the worker."""
        info = get_worker_info()
        assert info is not None, "torch calls this in a worker"
        reader: Any = info.dataset
        object.__setattr__(info, "dataset", reader.dataset)  # it refuses to be changed otherwise
        if self._init is not None:
            self._init(worker_id)


def reads_whole_batches(dataset: Any) -> bool:
    """Return whether a data set has a way of its own to read several samples at once.

    Those of torch that pass it on have one if what they are made of has.
    """
    way = getattr(type(dataset), "__getitems__", None)
    if way is Subset.__getitems__:
        return reads_whole_batches(dataset.dataset)
    if way is StackDataset.__getitems__:
        parts = dataset.datasets
        return any(map(reads_whole_batches, parts.values() if isinstance(parts, dict) else parts))
    return callable(getattr(dataset, "__getitems__", None))


def _was_drawn_from(seed: int) -> bool:
    """Return whether numpy or `random` were drawn from since they were seeded; moves them."""
    found = np.random.random_sample(), random.random()
    seed_streams(seed)
    return found != (np.random.random_sample(), random.random())
