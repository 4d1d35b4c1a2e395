"""What is looked at of a loop's training data never ends a run."""

from collections.abc import Iterator

import torch
from torch.utils.data import ChainDataset, IterableDataset, TensorDataset

from launcher.training.own_loop.data.known_samples import known_samples


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def test_streams_in_a_row_have_a_length_that_raises() -> None:
    assert known_samples(ChainDataset([Stream(), Stream()])) == {}


def test_data_in_memory_has_a_digest() -> None:
    found = known_samples(TensorDataset(torch.arange(4)))
    assert found["length"] == 4
    assert found["content"] is not None
