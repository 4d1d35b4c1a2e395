"""The arguments of `Run.prepare` and `Run.fit`, for editors, `help()` and type checkers.

What each means stands beside the fields of `Recipe`; a test keeps the two the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Required, TypedDict, TypeVar

import torch
from torch import nn

from strategies import (
    EMA,
    EarlyStopping,
    MapDataset,
    Objects,
    Parameters,
    Penalty,
    RateRule,
    ReduceOnPlateau,
    TrainingData,
)
from strategies.data.reading.samples import Collate

from .measure import Measure
from .recipe import Recipe

_Method = TypeVar("_Method", bound=Callable[..., Any])


class FitArguments(TypedDict, total=False):
    """What `Run.fit` hands on to `Run.prepare`."""

    model: Required[Callable[[], nn.Module]]
    optimizer: Required[Callable[[Parameters], torch.optim.Optimizer]]
    train: Required[TrainingData]
    global_batch: Required[int]
    micro_batch: Required[int]
    epochs: int | None
    steps: int | None
    schedule: RateRule
    plateau: ReduceOnPlateau | None
    evaluate_every: str
    save_every: str
    keep: int
    keep_every: str | None
    keep_best: int
    objects: Objects
    stop: EarlyStopping | None
    max_grad_norm: float | None
    workers: int
    collate: Collate | None
    evaluation_collate: Collate | None
    worker_init: Callable[[int], object] | None
    prefetch: int | None
    persistent: bool
    penalty: Penalty | None
    ema: EMA | None
    unfreeze: Mapping[str, int]
    max_skipped: int
    accelerator: Any
    log_every: int
    digest_every: int | None
    shard_blocks: str | tuple[str, ...]
    hybrid_shard: bool
    checkpoint_blocks: bool | str | tuple[str, ...]
    compile_blocks: bool | str | tuple[str, ...]
    offload: bool
    track: Sequence[Any] | None
    init: str
    forward: Callable[[Any, Any], Any] | None
    weights: str | Path | None
    frozen: str


class PrepareArguments(FitArguments, total=False):
    """The arguments of `Run.prepare`."""

    validate: MapDataset | None
    measure: Measure | None


def with_recipe(method: _Method) -> _Method:
    """Let `inspect.signature`, and so `help()`, show the fields of `Recipe` one by one.

    Args:
        method: takes them as its last parameter, `**recipe`; those that it has itself come first.
    """
    own = inspect.signature(method)
    *first, _ = own.parameters.values()
    named = {parameter.name for parameter in first}
    fields = inspect.signature(Recipe).parameters.values()
    shown = [*first, *(field for field in fields if field.name not in named)]
    method.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
    return method
