"""Metric objects of torchmetrics, as sums.

A metric is asked about one batch at a time on a fresh copy; its states are reduced here, exactly
once, and never by its own synchronisation, which would count padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch

from ..errors import ConfigError
from .sums import Table, Tally


def tally(metric: Any, *arguments: Any, **named: Any) -> Tally:
    """Return a metric's states after one batch as sums; see `metrics.torchmetric`.

    Raises:
        ConfigError: it is no metric of torchmetrics, or a state of it is no sum.
    """
    shapes = _shapes_of_sums(metric)
    fresh = deepcopy(metric)
    fresh.reset()
    fresh.update(*arguments, **named)
    sums = [getattr(fresh, name).detach().double().reshape(-1) for name in shapes]
    name = type(metric).__name__

    def finish(totals: Sequence[float]) -> float | Table | dict[str, float]:
        whole = deepcopy(metric)
        whole.reset()
        begin = 0
        for state, shape in shapes.items():
            old = getattr(whole, state)
            end = begin + old.numel()
            values = torch.tensor(totals[begin:end], dtype=torch.float64).reshape(shape)
            setattr(whole, state, values.to(old.dtype).to(old.device))
            begin = end
        whole._update_count = 1  # else compute warns of a metric that was never updated
        whole.sync_on_compute = False  # they are whole already; compute must not add them up again
        found = whole.compute()
        if not isinstance(found, torch.Tensor):
            raise ConfigError(f"{name}.compute() returned a {type(found).__name__}, no tensor.")
        if found.numel() == 1:
            return float(found)
        if found.ndim == 2:
            rows: Table = found.double().tolist()
            return rows
        return {str(n): float(value) for n, value in enumerate(found.flatten())}

    return Tally(kind=f"{name}({shapes})", sums=torch.cat(sums), finish=finish)


def _shapes_of_sums(metric: Any) -> dict[str, tuple[int, ...]]:
    reductions = getattr(metric, "_reductions", None)
    if not isinstance(reductions, dict) or not reductions:
        raise ConfigError(
            f"metrics.torchmetric got a {type(metric).__name__}; it needs a metric of torchmetrics "
            "that keeps states, one call for each of a collection."
        )
    shapes = {}
    for name, reduction in reductions.items():
        state = metric._defaults[name]
        if getattr(reduction, "__name__", "") != "dim_zero_sum" or isinstance(state, list):
            how = getattr(reduction, "__name__", str(reduction)).removeprefix("dim_zero_")
            raise ConfigError(
                f'the state "{name}" of {type(metric).__name__} is reduced by "{how}" and not by '
                '"sum", so it cannot be exact with padding. Choose a variant whose states are '
                "counts (many take thresholds=...), or return a pair (sum, count)."
            )
        shapes[name] = tuple(state.shape)
    return shapes
