"""A loader for a framework's loop that resumes at the sample, on any number of ranks.

The order is a function of the seed and the epoch. A DataLoader's own order is drawn from generators
that no checkpoint of a framework holds; torchdata's StatefulDataLoader is one of them under
Lightning's ddp, where the sampler that Lightning puts in front of it hides its state.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from strategies.data.permutation import shuffled

from ..training.own_loop.data.known_samples import known_samples, other_data_text


class ResumableLoader:
    """Gives each rank its batches of a map-style data set, and says where it is.

    As a `DataLoader` with a `DistributedSampler`: the last batches are made equal on all ranks with
    samples from the epoch's begin, unless `drop_last` leaves them out.

    Args:
        dataset: with `__len__` and `__getitem__`.
        batch_size: samples of one rank and batch.
        shuffle: a new order in each epoch.
        seed: of the orders.
        drop_last: leave out the samples that do not fill a batch of every rank.
        options: `DataLoader`'s others, such as num_workers and collate_fn.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        seed: int = 0,
        drop_last: bool = False,
        **options: Any,
    ) -> None:
        taken = sorted({"sampler", "batch_sampler"} & options.keys())
        if taken or not hasattr(dataset, "__len__"):
            what = f"{taken[0]}=" if taken else f"a {type(dataset).__name__} without a length"
            raise ValueError(
                f"ResumableLoader decides on the order itself, and was given {what}. Pass a data "
                "set with __len__ and __getitem__ and no sampler."
            )
        self.dataset = dataset
        self._known = known_samples(dataset)
        self.batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._drop_last = drop_last
        self._options = options
        self._epoch = 0
        self._samples = 0
        """Of this epoch that all ranks together have been given."""
        self._is_loaded = False

    def __len__(self) -> int:
        """Return the batches of one rank in an epoch."""
        together = self.batch_size * _world()[1]
        whole, rest = divmod(len(self.dataset), together)
        return whole + (rest > 0 and not self._drop_last)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of this rank from where the loader is to the epoch's end."""
        if self._samples > 0 and not self._is_loaded:  # the epoch before was broken off
            self._epoch, self._samples = self._epoch + 1, 0
        self._is_loaded = False
        rank, world_size = _world()
        order = epoch_order(len(self.dataset), self._epoch, self._seed, shuffle=self._shuffle)
        batches = batches_of_rank(
            order,
            begin=self._samples,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
            drop_last=self._drop_last,
        )
        # Else the seed of the workers would be drawn from the generator of the model's dropout.
        own = {"generator": torch.Generator().manual_seed(self._seed + self._epoch)}
        loader = DataLoader(self.dataset, batch_sampler=batches, **{**own, **self._options})
        for number, batch in enumerate(loader, start=1):
            # Before it is given out: who counts the batches asks for no more after the last one.
            self._samples += self.batch_size * world_size
            if number == len(batches):
                self._epoch, self._samples = self._epoch + 1, 0
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader is, the same on every rank, and a digest of its data."""
        place = {"epoch": self._epoch, "samples": self._samples, "seed": self._seed}
        return {**place, "data": self._known}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where another one was; warn where that had other data.

        Raises:
            ValueError: the other one had another seed, and with it another order.
        """
        if state["seed"] != self._seed:
            raise ValueError(
                f"seed={self._seed}, and the checkpoint's loader had seed={state['seed']}: the "
                f"order would be another. Pass seed={state['seed']}."
            )
        if (text := other_data_text(state.get("data", {}), self._known)) is not None:
            warnings.warn(text, stacklevel=2)
        self._epoch, self._samples = state["epoch"], state["samples"]
        self._is_loaded = True


def epoch_order(length: int, epoch: int, seed: int, *, shuffle: bool) -> list[int]:
    """Return the order of an epoch's samples; pure."""
    if not shuffle:
        return list(range(length))
    order: list[int] = shuffled(np.arange(length), length, seed=seed, epoch=epoch).tolist()
    return order


def batches_of_rank(
    order: Sequence[int],
    *,
    begin: int,
    batch_size: int,
    rank: int,
    world_size: int,
    drop_last: bool,
) -> list[list[int]]:
    """Return a rank's batches of an epoch from a sample on; as many on every rank. Pure.

    Args:
        order: of the epoch's samples.
        begin: how many of them are done.
        batch_size: samples of one rank and batch.
        rank: 0 <= rank < world_size.
        world_size: how many ranks there are.
        drop_last: leave out the samples that do not fill a batch of every rank.
    """
    together = batch_size * world_size
    found = []
    for at in range(begin, len(order), together):
        step = list(order[at : at + together])
        if len(step) < together and drop_last:
            break
        missing = -len(step) % world_size
        step += [order[number % len(order)] for number in range(missing)]
        found.append(step[rank::world_size])
    return found


def _world() -> tuple[int, int]:
    """Return this rank and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
