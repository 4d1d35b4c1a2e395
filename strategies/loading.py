"""Reading micro-batches: the plan's index lists, from any step on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from .batches import BatchPlan, Turn
from .data.reading import Batches, no_interruption, warn_by_python
from .data.reading import MapDataset as MapDataset

_SAMPLES_AT_ONCE = 1024
"""Where they are is worked out together: for a few the cost is that of the calls."""


def training_batches(
    dataset: MapDataset,
    plan: BatchPlan,
    *,
    first_step: int,
    rank: int,
    world_size: int,
    workers: int,
    while_waiting: Callable[[], bool] = no_interruption,
    has_notice: Callable[[], bool] = no_interruption,
    warn: Callable[[str], None] = warn_by_python,
) -> Batches:
    """Return the collated batches of this rank's turns from `first_step` to the end of the run.

    One stream over all epochs, so that loader workers are never torn down in between. For
    `while_waiting`, `has_notice` and `warn` see `Batches`.
    """

    def lists() -> Iterator[list[int]]:
        for steps in plan.stretches(first_step, at_most=_SAMPLES_AT_ONCE):
            turns = [turn for step in steps for turn in plan.turns(step, rank, world_size)]
            yield from (indices.tolist() for indices in plan.samples(steps.start, turns))

    return Batches(
        dataset,
        lists(),
        workers=workers,
        while_waiting=while_waiting,
        has_notice=has_notice,
        warn=warn,
    )


def evaluation_batches(
    dataset: MapDataset,
    turns: Sequence[Turn],
    *,
    workers: int,
    while_waiting: Callable[[], bool] = no_interruption,
    has_notice: Callable[[], bool] = no_interruption,
    warn: Callable[[str], None] = warn_by_python,
) -> Batches:
    """Return the collated batches of `turns`, in order."""
    lists = (list(range(t.micro_batch.start, t.micro_batch.end)) for t in turns)
    return Batches(
        dataset,
        lists,
        workers=workers,
        while_waiting=while_waiting,
        has_notice=has_notice,
        warn=warn,
    )


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
