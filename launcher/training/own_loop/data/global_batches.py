"""Batches that are the same on any number of ranks, for a loop that is the script's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from strategies import Batches, BatchPlan, ConfigError, MapDataset
from strategies.data.batches import MicroBatch, Turn
from strategies.data.options import Loading
from strategies.data.reading.reading import no_interruption, warn_by_python
from strategies.data.reading.samples import Collate, IndexList
from strategies.data.seeding import seed_of, training_samples

from ..random_state import random_state, set_random_state


class GlobalBatches:
    """A loader whose batches over all ranks do not depend on how many ranks there are.

    Every rank reads an equal part of each global batch. The order of an epoch and the random
    numbers of reading a sample follow from the seed, the epoch and the sample, so a run resumes on
    another number of ranks with the same curve. The samples that are too few for a whole batch are
    left out at the end of an epoch, others in each.
    """

    def __init__(
        self,
        dataset: MapDataset,
        global_batch: int,
        *,
        seed: int = 0,
        workers: int = 0,
        collate: Collate | None = None,
    ) -> None:
        """Take a map-style data set. Made on every rank, after init_process_group().

        Args:
            dataset: with a length, and samples by index.
            global_batch: samples of a step over all ranks; a multiple of their number.
            seed: of the order and of what reading draws.
            workers: loader processes of each rank.
            collate: makes a batch of a list of samples; None: torch's way.

        Raises:
            ConfigError: the ranks cannot share a batch equally, or there are too few samples.
        """
        is_spread = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if is_spread else 0
        self.world_size = dist.get_world_size() if is_spread else 1
        self.dataset = dataset
        self._loading = Loading(workers=workers, collate=collate)
        share, rest = divmod(global_batch, self.world_size)
        if rest or not share:
            raise ConfigError(
                f"global_batch={global_batch} cannot be shared equally by {self.world_size} ranks. "
                f"Use a multiple of {self.world_size}."
            )
        self.batch_size = share
        self._plan = BatchPlan(
            num_samples=len(dataset), global_batch=global_batch, micro_batch=share, seed=seed
        )
        if not len(self):
            raise ConfigError(
                f"the data set has {len(dataset)} samples, fewer than global_batch={global_batch}."
            )

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return self._plan.num_samples // self._plan.global_batch

    def read(self, epoch: int, first: int) -> Iterator[Any]:
        """Yield this rank's part of the batches of an epoch, from one on.

        Reading draws from streams of its own: those of the script are as they were, after it.
        """
        batches = Batches(
            self.dataset,
            self._lists(epoch, first),
            loading=self._loading,
            seed=seed_of(self._plan.seed, "workers", epoch, first, self.rank),
            while_waiting=no_interruption,
            has_notice=no_interruption,
            warn=warn_by_python,
        )
        host = torch.device("cpu")
        try:
            for _ in range(first, len(self)):
                before = random_state(host)
                batch = next(batches)
                set_random_state(before, host)
                yield batch
        finally:
            batches.close()

    def _lists(self, epoch: int, first: int) -> Iterator[IndexList]:
        plan, stream = self._plan, training_samples(self._plan.seed, epoch)
        for number in range(first, len(self)):
            start = number * plan.global_batch + self.rank * self.batch_size
            part = MicroBatch(index=self.rank, start=start, end=start + self.batch_size)
            turn = Turn(micro_batch=part, is_padding=False)
            (indices,) = plan.samples(epoch * plan.steps_per_epoch, [turn])
            yield IndexList(indices=indices.tolist(), stream=stream)
