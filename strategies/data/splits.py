"""Splitting a data set: seeded, and the same on every rank.

Everything is a pure function of the number of samples (or their labels) and the seed. Stratified
parts hold every label in the same share: each label is cut by itself, and what rounding leaves over
is carried to the next label, so that the parts have the right sizes too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import isclose

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .permutation import shuffled

_SPLIT_EPOCH = 2**63
"""Keeps the split's permutation apart from the order of every epoch."""


def split_indices(
    num_samples: int,
    fractions: Sequence[float],
    *,
    seed: int,
    stratify: Sequence[Hashable] | None = None,
) -> list[NDArray[np.int64]]:
    """Cut range(num_samples) into disjoint parts of the given shares, in a seeded order.

    Args:
        num_samples: length of the data set.
        fractions: shares such as (0.70, 0.15, 0.15); they must add up to 1.
        seed: the run's seed.
        stratify: one label a sample; every part then holds each label in the same share.

    Returns:
        One int64 index array a share; together they hold every sample exactly once.

    Raises:
        ConfigError: shares that do not add up to 1, a part that would be empty, or another number
            of labels than samples.
    """
    if not fractions or any(f <= 0 for f in fractions) or not isclose(sum(fractions), 1.0):
        raise ConfigError(
            f"fractions={tuple(fractions)} must be positive and add up to 1, "
            f"and these add up to {sum(fractions):g}. Example: (0.70, 0.15, 0.15)."
        )
    order = shuffled(np.arange(num_samples), num_samples, seed=seed, epoch=_SPLIT_EPOCH)
    if stratify is None:
        ends = np.rint(np.cumsum(fractions) * num_samples).astype(int)
        parts = np.split(order, ends[:-1])
    else:
        parts = _stratified(order, fractions, stratify)
    for fraction, part in zip(fractions, parts, strict=True):
        if len(part) == 0:
            raise ConfigError(
                f"a share of {fraction:g} of {num_samples} samples is empty. "
                "Use a larger share or more samples."
            )
    return parts


def fold_indices(
    num_samples: int, k: int, *, seed: int, stratify: Sequence[Hashable] | None = None
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return k pairs (training, validation) of k-fold cross-validation.

    Args:
        num_samples: length of the data set.
        k: number of folds, 2 <= k <= num_samples.
        seed: the run's seed.
        stratify: one label a sample; every fold then holds each label in the same share.

    Returns:
        int64 index arrays. The validation parts are disjoint and hold every sample exactly once.

    Raises:
        ConfigError: a k that cannot be, or another number of labels than samples.
    """
    if not 2 <= k <= num_samples:
        raise ConfigError(f"k={k} folds of {num_samples} samples: k must be in 2..{num_samples}.")
    folds = split_indices(num_samples, [1.0 / k] * k, seed=seed, stratify=stratify)
    return [
        (np.concatenate([f for j, f in enumerate(folds) if j != i]), fold)
        for i, fold in enumerate(folds)
    ]


def _stratified(
    order: NDArray[np.int64], fractions: Sequence[float], labels: Sequence[Hashable]
) -> list[NDArray[np.int64]]:
    if len(labels) != len(order):
        raise ConfigError(
            f"stratify has {len(labels)} labels for {len(order)} samples; it needs one a sample."
        )
    # Kinds in the order of their first sample: nothing depends on hashes, which differ by process.
    number_of: dict[Hashable, int] = {}
    numbers = np.array(
        [number_of.setdefault(_plain(label), len(number_of)) for label in labels], dtype=np.int64
    )
    by_label = order[np.argsort(numbers[order], kind="stable")]
    cuts = np.cumsum(np.bincount(numbers, minlength=len(number_of)))[:-1]
    pieces: list[list[NDArray[np.int64]]] = [[] for _ in fractions]
    shares = np.asarray(fractions)
    given = np.zeros(len(shares))
    for samples in np.split(by_label, cuts):
        # What each part is owed, with what the labels before have left over by rounding.
        owed = shares * (given.sum() + len(samples)) - given
        counts = _whole_numbers(owed, len(samples))
        given += counts
        for part, piece in zip(pieces, np.split(samples, np.cumsum(counts)[:-1]), strict=True):
            part.append(piece)
    parts = [np.concatenate(part) for part in pieces]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    # Back to the seeded order: a part must not be sorted by label.
    return [part[np.argsort(place[part], kind="stable")] for part in parts]


def _whole_numbers(owed: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Round to whole numbers that add up to `total`, by the largest remainders."""
    counts = np.floor(np.maximum(owed, 0.0)).astype(np.int64)
    while counts.sum() != total:
        lacking = owed - counts
        if counts.sum() < total:
            counts[np.argmax(lacking)] += 1
        else:
            counts[np.argmin(np.where(counts > 0, lacking, np.inf))] -= 1
    return counts


def _plain(label: Hashable) -> Hashable:
    """Return numbers in arrays and 0-dim tensors as numbers, so that equal labels are equal."""
    item = getattr(label, "item", None)
    plain: Hashable = item() if callable(item) else label
    return plain
