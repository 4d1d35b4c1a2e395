"""Reading micro-batches: the plan's index lists, from any step on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..batches import BatchPlan, Turn
from ..options import Loading
from ..seeding import evaluated_samples, seed_of, training_samples
from .moving import to_device as to_device
from .reading import Batches, no_interruption, warn_by_python
from .samples import IndexList
from .samples import MapDataset as MapDataset

READ_HERE = Loading()
"""By the rank itself, in torch's way."""
_SAMPLES_AT_ONCE = 1024
"""Where they are is worked out together: for a few the cost is that of the calls."""


def training_batches(
    dataset: MapDataset,
    plan: BatchPlan,
    *,
    first_step: int,
    rank: int,
    world_size: int,
    loading: Loading = READ_HERE,
    while_waiting: Callable[[], bool] = no_interruption,
    has_notice: Callable[[], bool] = no_interruption,
    warn: Callable[[str], None] = warn_by_python,
) -> Batches:
    """Return the collated batches of this rank's turns from `first_step` to the end of the run.

    One stream over all epochs, so that loader workers are never torn down in between. For
    `while_waiting`, `has_notice` and `warn` see `Batches`.
    """

    def lists() -> Iterator[IndexList]:
        for steps in plan.stretches(first_step, at_most=_SAMPLES_AT_ONCE):
            turns = [turn for step in steps for turn in plan.turns(step, rank, world_size)]
            stream = training_samples(plan.seed, plan.epoch_of(steps.start))
            for indices in plan.samples(steps.start, turns):
                yield IndexList(indices=indices.tolist(), stream=stream)

    return Batches(
        dataset,
        lists(),
        loading=replace(loading, persistent=False),
        seed=seed_of(plan.seed, "workers", first_step, rank),
        while_waiting=while_waiting,
        has_notice=has_notice,
        warn=warn,
    )


class EvaluationLoaders:
    """Opens the batches of evaluations; with `persistent` their workers wait for the next one.

    Args:
        seed: the run's.
        reading: `while_waiting`, `has_notice` and `warn` of `Batches`.
    """

    def __init__(self, seed: int, reading: Mapping[str, Any]) -> None:
        self._seed = seed
        self._reading = reading
        self._waiting: dict[str, Batches] = {}
        self._is_closed = False

    @contextmanager
    def open(
        self, dataset: MapDataset, turns: Sequence[Turn], name: str, *, loading: Loading
    ) -> Iterator[Batches]:
        """Lend the batches of `turns`, in order."""
        stream = evaluated_samples(self._seed, name)
        lists = _evaluation_lists(turns, stream)
        batches = self._waiting.pop(name, None)
        if batches is not None and batches.reads(dataset, loading):
            batches.read_again(lists)
        else:
            if batches is not None:
                batches.close()
            seed = seed_of(stream, "workers", *(turn.micro_batch.index for turn in turns[:1]))
            batches = Batches(dataset, lists, loading=loading, seed=seed, **self._reading)
        try:
            yield batches
        except BaseException:
            batches.close()
            raise
        if loading.persistent and batches.is_read and not self._is_closed:
            self._waiting[name] = batches
        else:
            batches.close()

    def close(self) -> None:
        """End the workers that wait; from now on none do."""
        self._is_closed = True
        while self._waiting:
            self._waiting.popitem()[1].close()


def _evaluation_lists(turns: Sequence[Turn], stream: str) -> Iterator[IndexList]:
    for turn in turns:
        indices = list(range(turn.micro_batch.start, turn.micro_batch.end))
        yield IndexList(indices=indices, stream=stream)
