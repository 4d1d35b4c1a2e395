"""A run without a loop of one's own: the same engine as `for step in job`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from strategies import ConfigError, MapDataset

from ..recipe.arguments import require_arguments
from ..recipe.measure import Measure
from ..recipe.recipe import Recipe
from ..recipe.signature import FitArguments
from .job import Job

_OWN = ("loss", "measure", "validate", "test", "export")

Loss: TypeAlias = Callable[[Any, Any], tuple[torch.Tensor, "torch.Tensor | float"]]
"""(model, batch) -> (the sum of the losses, of how many samples or tokens)."""


def fit(
    prepare: Callable[..., Job],
    *,
    loss: Loss,
    measure: Measure | None,
    validate: MapDataset | None,
    test: MapDataset | None,
    export: str | None,
    recipe: FitArguments,
) -> Job:
    """Train, evaluate, export and test. Called on every rank; see `Run.fit`."""
    require_arguments(Recipe, recipe, where="run.fit", also=_OWN)
    if test is not None and measure is None:
        raise ConfigError(
            "fit got data to test on and no measure. Pass measure=(model, batch) -> "
            '{"loss": one value a sample}.'
        )
    if recipe.get("stop") is not None and validate is None:
        raise ConfigError(
            "fit got a rule for early stopping and nothing to evaluate. Pass validate=a data set."
        )
    job = prepare(validate=validate, measure=measure, **recipe)
    if test is not None and measure is not None:
        job.try_measure(test, measure, name="test")
    for step in job:
        for batch in step:
            total, count = require_pair(loss(job.model, batch))
            step.backward(total, count=count)
        if step.evaluation_due and validate is not None:
            step.evaluate()
    if export is not None:
        job.export(export)
    if test is not None and measure is not None:
        job.test(test, measure)
    return job


def require_pair(returned: Any) -> tuple[torch.Tensor, torch.Tensor | float]:
    """Return what `loss` has returned.

    Raises:
        ConfigError: it is no pair.
    """
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise ConfigError(
            f"loss= returned a {type(returned).__name__}; it must return a pair: the sum of the "
            'losses, and of how many samples or tokens. With reduction="sum": '
            'return F.cross_entropy(model(x), y, reduction="sum"), len(y).'
        )
    total, count = returned
    return total, count
