"""What a script measures a model with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from strategies import Measurement

Measure: TypeAlias = Callable[[Any, Any], Mapping[str, Measurement]]
"""(model, batch) -> {metric: one value a sample, a pair (numerator, denominator), or what one of
`strategies.metrics` returns}."""
