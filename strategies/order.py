"""The order of samples: a permutation one can evaluate at any position.

A balanced Feistel network over the smallest even number of bits that holds the range, with
cycle walking to stay inside it (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
Constant memory and constant time a sample, so that a resume is a seek and not a replay.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_MIX_A = np.uint64(0x9E3779B97F4A7C15)
_MIX_B = np.uint64(0xBF58476D1CE4E5B9)


def shuffled(
    positions: NDArray[np.int64], num_samples: int, *, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return the sample index at each of `positions` of one epoch.

    Args:
        positions: int64, any shape (n,), each in [0, num_samples).
        num_samples: length of the data set.
        seed: the run's seed, 0 <= seed < 2**64.
        epoch: a different order for every epoch.

    Returns:
        int64 of shape (n,); over all positions a permutation of range(num_samples).
    """
    half_bits = max(2, (num_samples - 1).bit_length() + 1) // 2
    keys = (
        np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64))
        .random_raw(_ROUNDS)
        .astype(np.uint64)
    )
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        values[outside] = _feistel(values[outside], keys, half_bits)
        outside = values >= np.uint64(num_samples)
    return values.astype(np.int64)


def _feistel(
    values: NDArray[np.uint64], keys: NDArray[np.uint64], half_bits: int
) -> NDArray[np.uint64]:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    with np.errstate(over="ignore"):
        for key in keys:
            mixed = (right + key) * _MIX_A
            mixed ^= mixed >> np.uint64(29)
            mixed *= _MIX_B
            mixed ^= mixed >> np.uint64(32)
            left, right = right, left ^ (mixed & mask)
    return (left << shift) | right
