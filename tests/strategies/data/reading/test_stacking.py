"""Batches as torch makes them; where it cannot, which samples differ in what."""

from typing import Any

import numpy as np
import pytest
import torch

from strategies.data.reading.stacking import Unstackable, stack


def test_what_can_be_stacked_is() -> None:
    batch = stack([(torch.ones(2), 1), (torch.zeros(2), 2)], [5, 6])
    assert torch.equal(batch[0], torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert batch[1].tolist() == [1, 2]


ids = torch.zeros


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (
            [ids(3), ids(3), ids(4)],
            "the samples 7 and 9 cannot be stacked into one batch: is of shape (3,) in the one and "
            "of shape (4,) in the other. Pass collate=",
        ),
        ([{"a": ids(3)}, {"a": ids(2)}], "['a'] is of shape (3,) in the one and of shape (2,)"),
        ([(0, np.ones((2, 2))), (0, np.ones((2, 3)))], "[1] is of shape (2, 2) in the one"),
        ([{"a": 1, "b": 2}, {"a": 1}], "is a dict with 'a', 'b' in the one and a dict with 'a' in"),
        ([[1, 2], [1]], "is a list of 2 in the one and a list of 1 in the other"),
        ([{"ids": [1, 2]}, {"ids": [1]}], "['ids'] is a list of 2 in the one and a list of 1"),
        ([{"a": None}, {"a": 1}], "['a'] is a NoneType in the one and a number in the other"),
        ([(1, ids(3)), (2.0, ids(2))], "[1] is of shape (3,) in the one"),
        ([object(), object()], "the samples 7 to 8 cannot be stacked into one batch: TypeError: "),
    ],
)
def test_what_cannot_is_named(samples: list[Any], words: str) -> None:
    found = stack(samples, list(range(7, 7 + len(samples))))
    assert isinstance(found, Unstackable)
    assert words in found.sentence
    assert "\n" not in found.sentence
