"""Measuring a model on a data set, each sample exactly once, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from strategies import (
    Boundary,
    ConfigError,
    MapDataset,
    Measurement,
    MetricSums,
    Ranks,
    Strategy,
    assignment,
    consecutive,
    evaluation_batches,
    to_device,
)

from .recipe_arguments import require_no_loader

Measure: TypeAlias = Callable[[Any, Any], Mapping[str, Measurement]]
"""(model, batch) -> {metric: one value a sample, a pair (numerator, denominator), or what one of
`strategies.metrics` returns}."""


def evaluate(
    strategy: Strategy,
    ranks: Ranks,
    boundary: Boundary,
    dataset: MapDataset,
    measure: Measure,
    *,
    micro_batch: int,
    workers: int,
    name: str,
    beat: Callable[[], None],
) -> dict[str, float]:
    """Return the exact metrics of what `measure` returns. Called on every rank.

    Every rank computes the same number of batches, because a forward may be a collective; the
    ones beyond the end are repeats that do not count.

    Raises:
        ConfigError: an empty data set, or what is none.
        DesyncError: the ranks measure different metrics or data, or not all of them measure.
    """
    require_no_loader(dataset, f"what is evaluated as {name}")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ConfigError(
            f"what is evaluated as {name} is a {type(dataset).__name__} without a length or "
            "without samples by index. Give it __len__ and __getitem__."
        )
    if len(dataset) == 0:
        raise ConfigError(f"the data set to evaluate as {name} is empty.")
    boundary.require_same("an evaluation", {"name": name, "samples": len(dataset)})
    turns = assignment(consecutive(len(dataset), micro_batch), ranks.rank, ranks.world_size)
    sums = MetricSums()
    model = strategy.module
    was_training = model.training
    model.eval()
    with torch.no_grad():
        batches = evaluation_batches(dataset, turns, workers=workers)
        for turn, batch in zip(turns, batches, strict=True):
            measured = measure(model, to_device(batch, ranks.device))
            beat()
            sums.add(measured, weight=0.0 if turn.is_padding else 1.0)
    model.train(was_training)
    return {f"{name}/{key}": value for key, value in boundary.reduce_metrics(sums).items()}
