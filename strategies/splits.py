"""Splitting a data set: seeded, and the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from math import isclose

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError
from .order import shuffled

_SPLIT_EPOCH = 2**63
"""Keeps the split's permutation apart from the order of every epoch."""


def split_indices(
    num_samples: int, fractions: Sequence[float], *, seed: int
) -> list[NDArray[np.int64]]:
    """Cut range(num_samples) into disjoint parts of the given shares, in a seeded order.

    Args:
        num_samples: length of the data set.
        fractions: shares such as (0.70, 0.15, 0.15); they must add up to 1.
        seed: the run's seed.

    Returns:
        One int64 index array a share; together they hold every sample exactly once.

    Raises:
        ConfigError: shares that do not add up to 1, or a part that would be empty.
    """
    if not fractions or any(f <= 0 for f in fractions) or not isclose(sum(fractions), 1.0):
        raise ConfigError(
            f"fractions={tuple(fractions)} must be positive and add up to 1, "
            f"and these add up to {sum(fractions):g}. Example: (0.70, 0.15, 0.15)."
        )
    order = shuffled(np.arange(num_samples), num_samples, seed=seed, epoch=_SPLIT_EPOCH)
    ends = np.rint(np.cumsum(fractions) * num_samples).astype(int)
    parts = np.split(order, ends[:-1])
    for fraction, part in zip(fractions, parts, strict=True):
        if len(part) == 0:
            raise ConfigError(
                f"a share of {fraction:g} of {num_samples} samples is empty. "
                "Use a larger share or more samples."
            )
    return parts
