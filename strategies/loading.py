"""Reading micro-batches: a DataLoader over the plan, opened at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Sampler

from .batches import BatchPlan, Turn

_SAMPLES_AT_ONCE = 1024
"""Where they are is worked out together: for a few the cost is that of the calls."""


class MapDataset(Protocol):
    """What a data set must offer: a length and samples by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class _IndexLists(Sampler[list[int]]):
    """A batch sampler over index lists that are computed when they are asked for."""

    def __init__(self, lists: Iterator[list[int]]) -> None:
        self._lists = lists

    def __iter__(self) -> Iterator[list[int]]:
        return self._lists


def training_batches(
    dataset: MapDataset,
    plan: BatchPlan,
    *,
    first_step: int,
    rank: int,
    world_size: int,
    workers: int,
    while_waiting: Callable[[], bool] = lambda: False,
) -> Iterator[Any]:
    """Yield the collated batches of this rank's turns from `first_step` to the end of the run.

    One stream over all epochs, so that loader workers are never torn down in between.
    """

    def lists() -> Iterator[list[int]]:
        for steps in plan.stretches(first_step, at_most=_SAMPLES_AT_ONCE):
            turns = [turn for step in steps for turn in plan.turns(step, rank, world_size)]
            yield from (indices.tolist() for indices in plan.samples(steps.start, turns))

    return _loader(dataset, lists(), workers)


def evaluation_batches(
    dataset: MapDataset,
    turns: Sequence[Turn],
    *,
    workers: int,
    while_waiting: Callable[[], bool] = lambda: False,
) -> Iterator[Any]:
    """Yield the collated batches of `turns`, in order."""
    return _loader(
        dataset, (list(range(t.micro_batch.start, t.micro_batch.end)) for t in turns), workers
    )


def _loader(dataset: MapDataset, lists: Iterator[list[int]], workers: int) -> Iterator[Any]:
    # Its own generator: DataLoader would otherwise draw a seed from torch's global stream and
    # shift every random number of the user's.
    loader: DataLoader[Any] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=_IndexLists(lists),
        num_workers=workers,
        generator=torch.Generator().manual_seed(0),
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a (nested) batch to `device`."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
