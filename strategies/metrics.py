"""Metrics as sums: exact for any padding, batch size and number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch

from .errors import ConfigError

Measurement: TypeAlias = "torch.Tensor | tuple[torch.Tensor | float, torch.Tensor | float]"
"""One value a sample, of shape (n,) or more, any real dtype; or a pair (sum, count)."""


class MetricSums:
    """Numerators and denominators of named means, in float64 on the host."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, measured: Mapping[str, Measurement], *, weight: float) -> None:
        """Add one micro-batch.

        Args:
            measured: one entry a metric.
            weight: 0 for padding, else 1. Padding still fixes the names, which must be the same
                on every rank.

        Raises:
            ConfigError: a tensor without a sample dimension, whose count cannot be known.
        """
        for name, value in measured.items():
            numerator, denominator = self._sums.get(name, (0.0, 0.0))
            if weight:
                total, count = _sum_and_count(name, value)
                numerator, denominator = numerator + total, denominator + count
            self._sums[name] = (numerator, denominator)

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics' names in a canonical order."""
        return tuple(sorted(self._sums))

    def vector(self) -> list[float]:
        """Return [numerator, denominator, ...] in the order of `names`."""
        return [number for name in self.names for number in self._sums[name]]


def means(names: tuple[str, ...], vector: list[float]) -> dict[str, float]:
    """Return the weighted mean of each metric from the reduced vector; no samples give nan."""
    pairs = zip(vector[0::2], vector[1::2], strict=True)
    return {
        name: (total / count if count else float("nan"))
        for name, (total, count) in zip(names, pairs, strict=True)
    }


def _sum_and_count(name: str, value: Measurement) -> tuple[float, float]:
    if isinstance(value, tuple):
        total, count = value
        return float(total), float(count)
    if value.ndim == 0:
        raise ConfigError(
            f'metric "{name}" is a single number, a mean perhaps, and says not of how many '
            'samples. Return one value a sample (reduction="none") or a pair (sum, count).'
        )
    return float(value.detach().double().sum()), float(value.numel())
