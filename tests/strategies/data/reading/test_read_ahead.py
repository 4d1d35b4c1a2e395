"""A batch that is read before it is asked for is the one that would have been read then."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from strategies.data.reading.read_ahead import ReadAhead
from strategies.errors import DataNotReady


class Source(Iterator[int]):
    """Gives what it is told to, or raises it; draws from every stream as samples do."""

    def __init__(self, *given: int | Exception) -> None:
        self._given = iter(given)
        self.read = 0

    def __next__(self) -> int:
        self.read += 1
        torch.rand(1)
        np.random.rand()
        random.random()
        one = next(self._given)
        if isinstance(one, Exception):
            raise one
        return one


def draws() -> tuple[float, float, float]:
    return float(torch.rand(1)), float(np.random.rand()), random.random()


def test_the_order_is_the_same_however_often_it_is_read() -> None:
    source = Source(1, 2, 3)
    ahead = ReadAhead(source)
    found = [next(ahead)]
    ahead.read()
    ahead.read()
    assert source.read == 2  # one at most is held
    found += [next(ahead), next(ahead)]
    assert found == [1, 2, 3]


def test_what_is_drawn_meanwhile_is_drawn_by_nobody_else() -> None:
    """An optimizer that draws would otherwise draw other numbers than on a CPU."""
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draws()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    ReadAhead(Source(1)).read()
    assert draws() == expected


@pytest.mark.parametrize("error", [ValueError("sample 7 is damaged"), StopIteration()])
def test_a_failure_is_of_the_step_that_asks_for_the_batch(error: Exception) -> None:
    ahead = ReadAhead(Source(1, error, 2))
    ahead.read()
    assert next(ahead) == 1
    ahead.read()  # in the update of the step before
    ahead.read()
    with pytest.raises(type(error)):
        next(ahead)
    assert next(ahead) == 2


def test_data_that_does_not_come_is_asked_for_again() -> None:
    ahead = ReadAhead(Source(DataNotReady(), DataNotReady(), 1))
    ahead.read()
    with pytest.raises(DataNotReady):
        next(ahead)
    assert next(ahead) == 1
