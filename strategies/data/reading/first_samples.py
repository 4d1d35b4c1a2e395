"""What the training data is: its first samples, read twice, and which samples a subset takes.

A data set that is made or split with random numbers that nobody has seeded is another one on each
rank and at each start. One that keeps what it has drawn, or counts its reads, gives other samples
on another number of ranks. Neither ends in an error, so that a few samples are looked at.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from ..seeding import kept_streams, training_samples
from .samples import IndexList, SampleReader

NUM_READ = 6
"""Samples; one that draws a bit by itself is not found by each of them."""
LOOK_S = 1.0
"""After so long no further sample is read: some take seconds each, and every start would wait."""
_MOST_INDICES = 100_000
_MEMORY = (TensorDataset, list, tuple, torch.Tensor, np.ndarray)


@dataclass(frozen=True, kw_only=True)
class FirstSamples:
    """What was found on one rank."""

    length: int
    chosen: str
    """A digest of the indices that subsets take."""
    content: list[str] | None
    """Of each of the first samples; None: they were not read, or cannot be."""
    varies: bool = False
    """A sample was another one when it was read again with the same random numbers."""
    keeps_draws: bool = False
    """Samples drew random numbers only when they were first read."""


def first_samples(
    dataset: Any,
    seed: int,
    *,
    may_read: bool,
    clock: Callable[[], float] = time.monotonic,
) -> FirstSamples:
    """Look at a data set; random streams are left as they were. No collective.

    Args:
        dataset: samples by index.
        seed: the run's.
        may_read: whether this process may read samples. Where loader workers do, it must not: a
            file that it opens would be shared with them. What lies in memory is read in any case.
        clock: in seconds.
    """
    length, chosen, until_s = len(dataset), digest(_chosen(dataset)), clock() + LOOK_S
    if not (may_read or _is_in_memory(dataset)):
        return FirstSamples(length=length, chosen=chosen, content=None)
    followed = _Followed(dataset)
    reader = SampleReader(followed, collate=list)
    stream = training_samples(seed, 0)
    digests, varies, num_kept = [], False, 0
    with kept_streams():
        try:
            for index in range(min(NUM_READ, length)):
                asked = IndexList(indices=[index], stream=stream)
                first, was = digest(reader.read(asked)), followed.streams
                again, now = digest(reader.read(asked)), followed.streams
                digests.append(again)
                varies = varies or first != again
                num_kept += index > 0 and was != now  # at the first, much begins that is no cache
                if clock() > until_s:
                    break
        except Exception:
            # The first step tells, with its place.
            return FirstSamples(length=length, chosen=chosen, content=None)
    return FirstSamples(
        length=length,
        chosen=chosen,
        content=None if varies else digests,
        varies=varies,
        keeps_draws=not varies and num_kept > 1,
    )


def is_same(content: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether two looks at the first samples agree, as far as both went. Pure."""
    return all(a == b for a, b in zip(content, other, strict=False))


class _Followed:
    """A data set, and the random streams as each read has left them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.streams = ""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        sample = self.dataset[index]
        state: Any = np.random.get_state()
        self.streams = digest([torch.get_rng_state(), state[1], state[2], repr(random.getstate())])
        return sample


def _chosen(dataset: Any) -> list[Any]:
    """Return what tells which samples of what lies below a data set takes."""
    if isinstance(dataset, Subset):
        indices = dataset.indices
        some = indices[:: max(1, len(indices) // _MOST_INDICES)]
        return [len(dataset), np.asarray(some), *_chosen(dataset.dataset)]
    if isinstance(dataset, ConcatDataset):
        return [len(dataset), [_chosen(one) for one in dataset.datasets]]
    return [len(dataset)]


def _is_in_memory(dataset: Any) -> bool:
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return type(dataset) in _MEMORY


def digest(value: Any) -> str:
    """Return a digest of tensors, arrays and plain values, however they are nested."""
    found = hashlib.blake2b(digest_size=8)
    _add(value, found)
    return found.hexdigest()


def _add(value: Any, found: Any) -> None:
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        found.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        if not plain.is_complex() and not plain.is_sparse:
            found.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        found.update(f"{value.dtype}{value.shape}".encode())
        if value.dtype == object:
            _add(value.tolist(), found)
        else:
            found.update(value.tobytes())
    elif isinstance(value, Mapping):
        for key, one in value.items():
            found.update(repr(key).encode())
            _add(one, found)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        found.update(f"[{len(value)}".encode())
        for one in value:
            _add(one, found)
    elif isinstance(value, str | bytes | int | float | bool | None):
        found.update(repr(value).encode())
    else:
        found.update(type(value).__name__.encode())  # an object's address is not its content
