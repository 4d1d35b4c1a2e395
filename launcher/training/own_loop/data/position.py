"""Where a script's own loader is, and how it is put back there."""

from __future__ import annotations

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
)

from checkpointing import JSON
from strategies import ConfigError
from strategies.data.streams.own_position import keeps_position, what_is_lost
from strategies.data.streams.state_text import from_text, to_text

from .global_batches import GlobalBatches
from .known_samples import known_samples
from .skipping import regroups, skipping

_INSIDE = "base_dataloader"
"""Where accelerate's loaders keep torch's."""
_OF_FABRIC, _INSIDE_FABRIC = "_FabricDataLoader", "_dataloader"
_ON_ANY_RANKS = ("SeedableRandomSampler", "SequentialSampler")
"""Whose order, under accelerate, follows from the seed and the epoch alone."""
_DRAWS_BY_RANK = "DistributedSamplerWrapper"
NO_POSITION = (
    "a run could not resume where it was. Pass a torch DataLoader over a map-style data set (with "
    "a DistributedSampler on several ranks), or a loader with state_dict() and load_state_dict(), "
    "such as torchdata.stateful_dataloader.StatefulDataLoader."
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """How much of an epoch is done; the same on every rank."""

    epoch: int = 0
    batches: int = 0
    """Of this rank, since the epoch began or was taken up on another number of ranks."""
    samples: int = 0
    """Of each rank: as many as all ranks together have had, divided by their number."""


class DataPosition(ABC):
    """A loader that can be read from a place on."""

    generators: Sequence[torch.Generator] = ()
    """From which the order of its samples is drawn."""
    batch_size: int | None = None
    """Samples of a batch of one rank; None: not known."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.name = type(loader).__name__
        self.ready: Callable[[Any], Any] = _as_it_is
        """Makes of what was read what the script's own iteration would have given it."""

    @property
    def num_batches(self) -> int | None:
        """Batches of a whole epoch of one rank; None: not known."""
        try:
            return len(self.loader)
        except TypeError:
            return None

    def left(self, place: Place) -> int | None:
        """Return how many batches an epoch has from a place on; None: it is not known."""
        whole = self.num_batches
        return None if whole is None else max(0, whole - place.batches)

    @abstractmethod
    def open(self, place: Place) -> Iterator[Any]:
        """Return the batches from a place on; what draws their order is drawn here."""

    def state(self) -> Any:
        """Return what of this rank's place the loader knows alone, as JSON."""
        return None

    def restore(self, state: Any) -> None:
        """Put back what `state` returned on this rank."""
        assert state is None

    @abstractmethod
    def moved(self, place: Place, before: int, now: int) -> tuple[Place, str]:
        """Return the place on another number of ranks, and a phrase that says what it means."""

    @property
    def not_promised(self) -> list[str]:
        """What a resume on as many ranks cannot give, as short phrases."""
        return []

    @cached_property
    def samples(self) -> dict[str, JSON]:
        """A digest of the data set, as far as it is known."""
        return known_samples(_dataset(self.loader))


class SampledData(DataPosition):
    """A DataLoader over a map-style data set: its sampler is run on, and nothing is read for it.

    Accelerate's has one inside, which it reads a batch ahead.
    """

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self._torch: DataLoader[Any] = getattr(loader, _INSIDE, loader)
        made: Any = self._torch.batch_sampler
        self._sampler: Any = _innermost_sampler(self._torch)
        self._dealer = type(made or self._sampler).__name__
        size = self._torch.batch_size or getattr(made, "batch_size", None)
        self.batch_size = size if isinstance(size, int) else None
        if self.batch_size is not None and getattr(made, "split_batches", False):
            self.batch_size //= made.num_processes  # each rank's part of it
        known = (
            self._torch.generator,
            getattr(self._sampler, "generator", None),
            getattr(loader, "synchronized_generator", None),
        )
        self.generators = list({id(g): g for g in known if isinstance(g, torch.Generator)}.values())

    def left(self, place: Place) -> int | None:
        """Return how many batches an epoch has from a place on; None: it is not known."""
        if not self._counts_samples(place):
            return super().left(place)
        assert self.batch_size is not None
        rest = max(0, len(self._sampler) - place.samples)
        whole, more = divmod(rest, self.batch_size)
        drops: Any = self._torch.batch_sampler
        return whole + (more > 0 and not drops.drop_last)

    def open(self, place: Place) -> Iterator[Any]:
        """Return the batches from a place on; what draws their order is drawn here."""
        _set_epoch(self.loader, place.epoch)
        if not place.samples and not place.batches:
            return iter(self.loader)
        sampler = skipping(self._torch)
        if self._counts_samples(place):
            sampler.skip(samples=place.samples)
        else:
            sampler.skip(batches=place.batches)
        batches: Iterator[Any] = iter(self.loader)
        if self._torch is not self.loader:  # it begins with its first batch
            first = list(islice(batches, 1))
            return chain(first, batches)
        if not self._torch.num_workers:  # else it has been read ahead
            sampler.prime()
        return batches

    def moved(self, place: Place, before: int, now: int) -> tuple[Place, str]:
        """Return the place on another number of ranks, and a phrase that says what it means."""
        done, size = place.samples * before, self.batch_size
        batches = place.batches * before // now if size is None else done // (now * size)
        new = Place(epoch=place.epoch, batches=batches, samples=done // now)
        if self._torch is not self.loader and type(self._sampler).__name__ in _ON_ANY_RANKS:
            again = 0 if size is None or regroups(self._torch) else done - batches * now * size
            return new, self._dealt_text(place, "accelerate", now, done, again)
        # That of Lightning deals an order that each rank draws from its own random numbers.
        draws = type(self._sampler).__name__ == _DRAWS_BY_RANK
        is_dealt = isinstance(self._sampler, DistributedSampler) and not draws
        is_dealt = is_dealt or now == before == 1
        if is_dealt and regroups(self._torch):
            return new, self._dealt_text(place, "the sampler", now, done, done % now)
        return new, (
            f"epoch {place.epoch} from about sample {done} on: which samples those are is up to "
            f"{self._dealer}, so some may come "
            "twice and some not at all"
        )

    @property
    def not_promised(self) -> list[str]:
        """What a resume on as many ranks cannot give, as short phrases."""
        if self._torch is not self.loader:
            return [
                "random numbers that the data set draws where it is read: accelerate reads a batch "
                "ahead"
            ]
        if not self._torch.num_workers:
            return []
        return [
            "random numbers that the data set draws in loader workers: each worker's stream "
            "restarts at a resume"
        ]

    @staticmethod
    def _dealt_text(place: Place, dealer: str, ranks: int, done: int, again: int) -> str:
        return (
            f"the rest of epoch {place.epoch} in its order, which {dealer} deals to {ranks} ranks "
            f"from sample {done - again} on"
            + (f"; {again} of them come a second time" if again else "")
        )

    def _counts_samples(self, place: Place) -> bool:
        """Whether the place is not at a whole batch of this loader, as on other ranks."""
        return (
            self.batch_size is not None
            and regroups(self._torch)
            and place.samples != place.batches * self.batch_size
        )


class StatefulData(DataPosition):
    """A loader that reports its position by state_dict(), on each rank."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        size = getattr(loader, "batch_size", None)
        self.batch_size = size if isinstance(size, int) else None

    def open(self, place: Place) -> Iterator[Any]:
        """Return the batches from a place on: the loader's own state says where that is."""
        if not place.batches:
            _set_epoch(self.loader, place.epoch)
        return iter(self.loader)

    def state(self) -> Any:
        """Return what of this rank's place the loader knows alone, as JSON."""
        return to_text(copy.deepcopy(self.loader.state_dict()), f"{self.name}.state_dict()")

    def restore(self, state: Any) -> None:
        """Put back what `state` returned on this rank."""
        self.loader.load_state_dict(from_text(state))

    def moved(self, place: Place, before: int, now: int) -> tuple[Place, str]:
        """Refuse: the state of a rank says nothing of the others'.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"each rank reads its own {self.name}, and the run was saved on {before} ranks: on "
            f"{now} it would read other samples, some twice and some never. Start it with {before} "
            "ranks, or pass a DataLoader with a DistributedSampler, which resumes on any number."
        )

    @property
    def not_promised(self) -> list[str]:
        """What a resume on as many ranks cannot give, as short phrases."""
        lost = what_is_lost(self.loader) or f"that is up to {self.name}.load_state_dict"
        return [f"no sample twice or left out: {lost}"]


class PlannedData(DataPosition):
    """A loader of ours: the same batches on any number of ranks."""

    loader: GlobalBatches

    def __init__(self, loader: GlobalBatches) -> None:
        super().__init__(loader)
        self.batch_size = loader.batch_size

    def open(self, place: Place) -> Iterator[Any]:
        """Return the batches from a place on."""
        return self.loader.read(place.epoch, place.batches)

    def moved(self, place: Place, before: int, now: int) -> tuple[Place, str]:
        """Return the place on another number of ranks, and a phrase that says what it means."""
        new = Place(epoch=place.epoch, batches=place.batches, samples=place.samples * before // now)
        return new, f"the same batches as on {before} ranks, from batch {place.batches} on"


def data_position(loader: Any) -> DataPosition:
    """Return the position of a script's loader.

    Raises:
        ConfigError: it cannot say where it is, nor be run on to a place.
    """
    if loader is None:
        raise ConfigError("run.batches() reads loader=, and none was passed to Resumable.")
    if isinstance(loader, GlobalBatches):
        return PlannedData(loader)
    name = type(loader).__name__
    if name == _OF_FABRIC:
        # Its own iteration counts epochs from each start, so what is inside is read.
        inside = data_position(getattr(loader, _INSIDE_FABRIC))
        if loader.device is not None:
            move = sys.modules[type(loader).__module__].move_data_to_device
            inside.ready = lambda batch: move(batch, loader.device)
        return inside
    if name == "DataLoaderDispatcher":
        raise ConfigError(
            "loader= is accelerate's DataLoaderDispatcher, with which rank 0 reads for all: "
            f"{NO_POSITION} For accelerate: DataLoaderConfiguration(dispatch_batches=False)."
        )
    inside = getattr(loader, _INSIDE, loader)
    if keeps_position(inside):
        if inside is not loader and type(_innermost_sampler(inside)) is RandomSampler:
            raise ConfigError(
                "loader= is accelerate's over a StatefulDataLoader that shuffles: it resumes an "
                "epoch in another order, so some samples come twice and some not at all. Pass "
                "DataLoaderConfiguration(use_seedable_sampler=True) too, or leave "
                "use_stateful_dataloader out, which Resumable does not need."
            )
        return StatefulData(loader)
    if not isinstance(loader, DataLoader):
        raise ConfigError(f"loader= is a {name}, which cannot report its position: {NO_POSITION}")
    if isinstance(getattr(loader, _INSIDE, loader).dataset, IterableDataset):
        raise ConfigError(
            f"loader= reads a {type(loader.dataset).__name__}, an IterableDataset, which cannot "
            f"report its position: {NO_POSITION}"
        )
    return SampledData(loader)


def _innermost_sampler(loader: DataLoader[Any]) -> Any:
    made: Any = loader.batch_sampler
    dealt: Any = getattr(made, "batch_sampler", made)  # accelerate's deals it to ranks
    return getattr(dealt, "sampler", loader.sampler)


def _as_it_is(batch: Any) -> Any:
    return batch


def _set_epoch(loader: Any, epoch: int) -> None:
    """Tell everything that asks for it which epoch begins, so that each has its own order."""
    batches = getattr(loader, "batch_sampler", None)
    inner = getattr(batches, "sampler", None) if isinstance(batches, BatchSampler) else None
    informed: list[int] = []
    for one in (loader, getattr(loader, "sampler", None), batches, inner, _dataset(loader)):
        if callable(getattr(one, "set_epoch", None)) and id(one) not in informed:
            informed.append(id(one))
            one.set_epoch(epoch)  # type: ignore[union-attr]


def _dataset(loader: Any) -> Any:
    return getattr(loader, "dataset", None)
