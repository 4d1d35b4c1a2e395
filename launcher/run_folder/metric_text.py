"""What was measured, for a line of text and for JSON; pure, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

WEIGHTS_DIGEST = "weights_digest"
"""In a record: 16 hexadecimal digits that follow from all weights."""


def is_table(value: object) -> bool:
    """Return whether a metric is a matrix, such as a confusion matrix, and no number."""
    return isinstance(value, list)


def metric_text(name: str, value: Any, digits: int = 4) -> str:
    """Return a metric with its name; of a table the size, for a line has no room for it."""
    if is_table(value):
        return f"{name} ({len(value)} x {len(value[0]) if value else 0} table)"
    return f"{name} {value:.{digits}g}"


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """Return all of them in a line."""
    return "  ".join(metric_text(name, value) for name, value in metrics.items())


def measured_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured of a record or an event: what has a "/" in its name."""
    return {name: value for name, value in record.items() if "/" in name}


def without_nan(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without what is not finite, for which JSON has no word; null in a table."""
    kept = {}
    for name, value in record.items():
        if is_table(value):
            kept[name] = [[x if math.isfinite(x) else None for x in row] for row in value]
        elif not isinstance(value, float) or math.isfinite(value):
            kept[name] = value
    return kept
