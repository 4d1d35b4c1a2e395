"""The order of samples: a permutation one can evaluate at any position.

A Feistel network over the smallest rectangle a x b with a close to b that holds the range, with
cycle walking to stay inside it (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
The rectangle is hardly larger than the range, so that nearly every position is done in one pass.
Constant memory and constant time a sample: a resume is a seek and not a replay.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8
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
    rows = math.isqrt(num_samples - 1) + 1
    columns = -(-num_samples // rows)
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(_ROUNDS)
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():
        values[outside] = _feistel(values[outside], keys.astype(np.uint64), rows, columns)
        outside = values >= np.uint64(num_samples)
    return values.astype(np.int64)


def _feistel(
    values: NDArray[np.uint64], keys: NDArray[np.uint64], rows: int, columns: int
) -> NDArray[np.uint64]:
    sizes = (np.uint64(rows), np.uint64(columns))
    halves = list(np.divmod(values, sizes[1]))
    with np.errstate(over="ignore"):
        for turn, key in enumerate(keys):
            moved, fixed = turn % 2, 1 - turn % 2
            mixed = (halves[fixed] + key) * _MIX_A
            mixed ^= mixed >> np.uint64(29)
            mixed *= _MIX_B
            mixed ^= mixed >> np.uint64(32)
            # Either half is reduced first: the sum of two numbers below its size cannot overflow.
            halves[moved] = (halves[moved] + mixed % sizes[moved]) % sizes[moved]
    shuffled_values: NDArray[np.uint64] = halves[0] * sizes[1] + halves[1]
    return shuffled_values
