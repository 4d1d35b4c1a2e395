"""Measuring a model on a data set, each sample exactly once, on any number of ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import torch

from strategies import (
    AgreedNotice,
    Boundary,
    ConfigError,
    DataNotReady,
    Look,
    MapDataset,
    Measurement,
    Metrics,
    MetricSums,
    NoticeRounds,
    Ranks,
    Strategy,
    Turn,
    assignment,
    consecutive,
    seed_streams,
    to_device,
)
from strategies.data.seeding import kept_streams, measuring_seed

from ..recipe.arguments import require_no_loader
from ..recipe.measure import Measure

Given = TypeVar("Given")

OpenBatches: TypeAlias = Callable[
    [MapDataset, Sequence[Turn], str], AbstractContextManager[Iterator[Any]]
]
"""(data set, turns, name of the evaluation) -> their batches, in order."""


class FirstSamples:
    """The first samples of a data set, as a data set: enough for one batch of one rank."""

    def __init__(self, dataset: MapDataset, most: int) -> None:
        self._dataset, self._most = dataset, most

    def __len__(self) -> int:
        return min(self._most, len(self._dataset))

    def __getitem__(self, index: int) -> Any:
        return self._dataset[index]


def required(given: Given | None, name: str, call: str = "step.evaluate") -> Given:
    """Return what a call needs, given to it or to `run.prepare`.

    Raises:
        ConfigError: neither.
    """
    if given is None:
        raise ConfigError(f"{call} needs {name}: pass it there, or to run.prepare({name}=...).")
    return given


def require_samples(dataset: MapDataset, name: str) -> None:
    """Refuse what cannot be evaluated.

    Raises:
        ConfigError: an empty data set, or what is none.
    """
    require_no_loader(dataset, f"the data set to evaluate as {name}")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ConfigError(
            f"the data set to evaluate as {name} is a {type(dataset).__name__} without a length or "
            "without samples by index. Give it __len__ and __getitem__."
        )
    if len(dataset) == 0:
        raise ConfigError(f"the data set to evaluate as {name} is empty.")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How an evaluation ended; the same on every rank."""

    metrics: Metrics | None
    """By name, over all samples; None: the ranks gave it up, all at the same batch."""
    notice: AgreedNotice
    """What they knew of a preemption notice then."""


def evaluate(
    strategy: Strategy,
    ranks: Ranks,
    boundary: Boundary,
    dataset: MapDataset,
    measure: Measure,
    *,
    micro_batch: int,
    name: str,
    seed: int,
    open_batches: OpenBatches,
    beat: Callable[[], None],
    look: Callable[[], Look] = Look,
    needed_s: float = 0.0,
) -> Evaluation:
    """Return the exact metrics of what `measure` returns. Called on every rank.

    Every rank computes the same number of batches, because a forward may be a collective; the
    ones beyond the end are repeats that do not count. A preemption notice ends it between two
    batches, the same on every rank; it is not begun where it would not end before the deadline.
    What `measure` draws follows seed, name and micro-batch; random streams are left as they were.

    Args:
        strategy: holds the model.
        ranks: that measure together.
        boundary: where they agree.
        dataset: what is measured on.
        measure: see `Measure`.
        micro_batch: samples in a batch of one rank.
        name: of the evaluation.
        seed: the run's.
        open_batches: opens the data set's batches.
        beat: tells that this rank makes progress.
        look: what this rank knows of notices and of the time.
        needed_s: what this evaluation took the last time; 0: not known. The coordinator's counts.

    Raises:
        ConfigError: an empty data set, or what is none.
        DesyncError: the ranks measure different metrics or data, or not all of them measure.
    """
    require_samples(dataset, name)
    boundary.require_same("an evaluation", {"name": name, "samples": len(dataset)})
    turns = assignment(consecutive(len(dataset), micro_batch), ranks.rank, ranks.world_size)
    model = strategy.module
    was_training, modes = model.training, [(one, one.training) for one in model.modules()]
    model.eval()
    loop = _Loop(ranks, look, needed_s, beat, exact=strategy.options.exact)

    def measured(turn: Turn, batch: Any) -> Mapping[str, Measurement]:
        seed_streams(measuring_seed(seed, name, turn.micro_batch.index))
        strategy.gathers.begin_batch(trains=False)
        found = measure(model, batch)
        strategy.gathers.end_batch()
        return found

    with (
        torch.no_grad(),
        strategy.together(),
        kept_streams(),
        open_batches(dataset, turns, name) as batches,
    ):
        sums = loop.measure(turns, batches, measured)
    model.train(was_training)
    for module, mode in modes:
        module.training = mode  # the loop may have parts in eval()
    if sums is None:
        return Evaluation(metrics=None, notice=loop.notice)
    reduced = boundary.reduce_metrics(sums)
    metrics = {f"{name}/{key}": value for key, value in reduced.items()}
    return Evaluation(metrics=metrics, notice=loop.notice)


class _Loop:
    """Goes through the batches, and asks the ranks for notices meanwhile."""

    def __init__(
        self,
        ranks: Ranks,
        look: Callable[[], Look],
        needed_s: float,
        beat: Callable[[], None],
        *,
        exact: bool,
    ) -> None:
        self._ranks = ranks
        self._is_exact = exact
        self._look = look
        self._needed_s = needed_s
        self._beat = beat
        self._rounds = NoticeRounds(ranks, self._own_look)
        self._began_s = time.monotonic()
        self._num_done = 0
        self._lacks_data = False
        self.notice = AgreedNotice(asked=0, time=None)
        """The newest."""

    def measure(
        self,
        turns: Sequence[Turn],
        batches: Iterator[Any],
        measure: Callable[[Turn, Any], Mapping[str, Measurement]],
    ) -> MetricSums | None:
        """Return the sums of this rank; None where the ranks give up. Called on every rank."""
        sums, batch = MetricSums(exact=self._is_exact), None
        for turn in turns:
            is_last = self._num_done == len(turns) - 1
            try:
                batch = next(batches)
            except DataNotReady:
                # This rank has a notice, so that the ranks will give up: till then a repeat.
                self._lacks_data = True
            self._rounds.begin(must=is_last)
            if self._num_done == 0:
                # Before the first forward, for which one that has no batch would be missed.
                self._end_round()
                if self.notice.refuses():
                    return None
            measured = measure(turn, to_device(batch, self._ranks.device))
            self._end_round()
            self._num_done += 1
            if self.notice.lacks_data or (self.notice.asked and not is_last):
                return None
            self._beat()
            sums.add(measured, weight=0.0 if turn.is_padding else 1.0)
        return sums

    def _end_round(self) -> None:
        self.notice = self._rounds.end() or self.notice

    def _own_look(self) -> Look:
        elapsed_s = time.monotonic() - self._began_s
        return replace(
            self._look(),
            unit_s=elapsed_s / self._num_done if self._num_done else 0.0,
            needed_s=self._needed_s,
            lacks_data=self._lacks_data,
        )
