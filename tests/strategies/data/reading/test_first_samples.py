"""The first samples of a data set show what would be another one elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset, TensorDataset

from strategies.data.reading.first_samples import NUM_READ, FirstSamples, first_samples, is_same


class Noisy:
    """Draws for each sample."""

    def __init__(self, *, keeps: bool = False, counts: bool = False, lazy: bool = False) -> None:
        self.keeps, self.counts, self.lazy = keeps, counts, lazy
        self.kept: dict[int, Any] = {}
        self.reads = 0

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        if self.lazy and self.reads == 1:
            np.random.rand(3)
        if self.keeps:
            if index not in self.kept:
                self.kept[index] = index + torch.rand(2)
            return self.kept[index]
        return index + torch.rand(2) + (self.reads if self.counts else 0)


def _numpys() -> Any:
    state: Any = np.random.get_state()
    return state[1].copy()


@contextmanager
def streams_are_kept() -> Iterator[None]:
    before = torch.get_rng_state(), _numpys()
    yield
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == _numpys()).all()


def look(dataset: Any, seed: int = 0, *, may_read: bool = True) -> FirstSamples:
    with streams_are_kept():
        return first_samples(dataset, seed, may_read=may_read)


def test_what_draws_as_seeded_is_the_same_each_time() -> None:
    torch.manual_seed(1)
    found = look(Noisy())
    torch.manual_seed(2)
    assert look(Noisy()) == found
    assert not found.varies
    assert not found.keeps_draws
    assert found.content is not None
    assert look(Noisy(), seed=1).content != found.content
    assert not look(Noisy(lazy=True)).keeps_draws


def test_a_cache_of_draws_and_a_counter_are_seen() -> None:
    assert look(Noisy(keeps=True)).keeps_draws
    counted = look(Noisy(counts=True))
    assert counted.varies
    assert counted.content is None


def test_other_content_and_other_indices_are_told_apart() -> None:
    data = TensorDataset(torch.arange(20.0))
    one, other = (look(Subset(data, [0, 1, 2, 3, last])) for last in (4, 5))
    assert one.chosen != other.chosen
    beyond, after = (look(Subset(data, [*range(10), last])) for last in (15, 16))
    assert beyond.chosen != after.chosen
    assert beyond.content == after.content
    assert look(TensorDataset(torch.arange(20.0) + 1)).content != look(data).content


def test_where_loader_workers_read_this_process_opens_nothing() -> None:
    data = Noisy()
    found = look(Subset(data, [3, 4]), may_read=False)  # type: ignore[arg-type]
    assert (data.reads, found.content) == (0, None)
    assert look(TensorDataset(torch.zeros(3)), may_read=False).content is not None


def test_a_data_set_that_fails_is_left_to_the_first_step() -> None:
    class Broken:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            raise KeyError(index)

    assert look(Broken()).content is None


def test_slow_samples_are_few_and_compared_as_far_as_they_go() -> None:
    seconds = iter(range(100))
    slow = Noisy()
    with streams_are_kept():
        found = first_samples(slow, 0, may_read=True, clock=lambda: 0.6 * next(seconds))
    assert slow.reads == 2 * 2  # after 0.6 s and 1.2 s
    assert found.content is not None
    whole = look(Noisy()).content
    assert whole is not None
    assert (len(found.content), len(whole)) == (2, NUM_READ)
    assert is_same(found.content, whole)
    assert not is_same(found.content, [*found.content[:1], "another", *whole[2:]])
