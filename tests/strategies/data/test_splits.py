from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies.data.splits import fold_indices, split_indices
from strategies.errors import ConfigError


@given(
    st.lists(st.sampled_from("abcd"), min_size=60, max_size=300),
    st.sampled_from([(0.7, 0.15, 0.15), (0.5, 0.5), (0.6, 0.1, 0.1, 0.2)]),
    st.integers(0, 5),
)
def test_every_part_holds_each_label_in_its_share(labels, fractions, seed) -> None:
    parts = split_indices(len(labels), fractions, seed=seed, stratify=labels)
    assert sorted(chain(*(p.tolist() for p in parts))) == list(range(len(labels)))
    counts = Counter(labels)
    for fraction, part in zip(fractions, parts, strict=True):
        assert abs(len(part) - fraction * len(labels)) < 1
        found = Counter(labels[i] for i in part)
        for label, count in counts.items():
            assert abs(found[label] - fraction * count) < 2


def test_stratified_parts_are_shuffled_and_seeded() -> None:
    labels = ["a"] * 500 + ["b"] * 500
    first, _ = split_indices(1000, (0.8, 0.2), seed=1, stratify=labels)
    again, _ = split_indices(1000, (0.8, 0.2), seed=1, stratify=labels)
    other, _ = split_indices(1000, (0.8, 0.2), seed=2, stratify=labels)
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
    assert 150 < (first[:400] < 500).sum() < 250


def test_labels_in_tensors_and_arrays_are_numbers() -> None:
    plain = [i % 3 for i in range(90)]
    wanted = [p.tolist() for p in split_indices(90, (0.5, 0.5), seed=1, stratify=plain)]
    for labels in (torch.tensor(plain), np.array(plain)):
        found = split_indices(90, (0.5, 0.5), seed=1, stratify=labels)
        assert [p.tolist() for p in found] == wanted


def test_folds_validate_on_every_sample_once() -> None:
    labels = [i % 7 == 0 for i in range(103)]
    folds = fold_indices(103, 5, seed=3, stratify=labels)
    assert sorted(chain(*(v.tolist() for _, v in folds))) == list(range(103))
    for train, validation in folds:
        assert len(validation) in (20, 21)
        assert sum(labels[i] for i in validation) in (2, 3, 4)
        assert sorted([*train.tolist(), *validation.tolist()]) == list(range(103))


@pytest.mark.parametrize("k", [1, 0, 11])
def test_folds_that_cannot_be(k: int) -> None:
    with pytest.raises(ConfigError, match=f"k={k} folds of 10 samples"):
        fold_indices(10, k, seed=0)


def test_labels_of_another_length() -> None:
    with pytest.raises(ConfigError, match="stratify has 9 labels for 10 samples"):
        split_indices(10, (0.5, 0.5), seed=0, stratify=range(9))
