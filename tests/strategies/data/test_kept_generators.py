"""Generators that a data set keeps are found, and seeded by the sample."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset

from strategies.data.kept_generators import KeptGenerators
from strategies.data.reading.samples import IndexList, SampleReader

GLOBAL = np.random.default_rng(7)


class Transform:
    def __init__(self, draw: Callable[[], float]) -> None:
        self.draw = draw

    def __call__(self) -> float:
        return self.draw()


class Draws(Dataset[Any]):
    """A data set whose samples are what it draws."""

    def __init__(self, *draws: Callable[[], float]) -> None:
        self.transforms = [Transform(draw) for draw in draws]

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([draw() for draw in self.transforms], dtype=torch.float64)


class ByName(Draws):
    def __getitem__(self, index: int) -> Any:
        return torch.tensor([GLOBAL.random()], dtype=torch.float64)


def closure() -> Callable[[], float]:
    rng = random.Random(3)
    return lambda: rng.random()


def of_torch() -> Callable[[], float]:
    rng = torch.Generator()
    return lambda: float(torch.rand(1, generator=rng, dtype=torch.float64))


MADE: dict[str, Callable[[], Any]] = {
    "bound method": lambda: Draws(np.random.default_rng(1).random),
    "partial": lambda: Draws(partial(np.random.default_rng(1).uniform, 0, 1)),
    "legacy": lambda: Draws(np.random.RandomState(1).random_sample),
    "closure": lambda: Draws(closure()),
    "torch": lambda: Draws(of_torch()),
    "global name": lambda: ByName(),
    "philox": lambda: Draws(np.random.Generator(np.random.Philox(1)).random),
    "two": lambda: Draws(np.random.default_rng(1).random, np.random.default_rng(1).random),
    "subset": lambda: Subset(Draws(np.random.default_rng(1).random), list(range(100))),
}


def read(reader: SampleReader, *lists: list[int]) -> dict[int, tuple[float, ...]]:
    found: dict[int, tuple[float, ...]] = {}
    for indices in lists:
        batch = reader.__getitems__(IndexList(indices=indices, stream="1/sample/0"))
        found |= {index: tuple(row.tolist()) for index, row in zip(indices, batch, strict=True)}
    return found


@pytest.mark.parametrize("kind", MADE)
def test_a_sample_draws_the_same_whoever_reads_it_and_after_what(kind: str) -> None:
    one = read(SampleReader(MADE[kind]()), [0, 1, 2], [3, 4, 5])
    other = read(SampleReader(MADE[kind]()), [4, 3])
    assert other == {index: one[index] for index in (4, 3)}
    drawn = [number for numbers in one.values() for number in numbers]
    assert len(set(drawn)) == len(drawn)


def test_one_that_is_drawn_from_later_is_seen_then() -> None:
    rng = np.random.default_rng(1)
    count = [0]

    def draw() -> float:
        count[0] += 1
        return rng.random() if count[0] > 3 else 0.0

    found = read(SampleReader(Draws(draw)), [0, 1, 2], [3, 4], [5, 6])
    again = read(SampleReader(Draws(draw)), [6, 5, 4, 3])
    assert again == {index: found[index] for index in (6, 5, 4, 3)}
    assert len(set(again.values())) == 4


def test_a_collate_function_draws_the_same_for_a_micro_batch() -> None:
    rng = np.random.default_rng(1)
    reader = SampleReader(Draws(lambda: 0.0), lambda samples: [rng.random()])
    asked = [IndexList(indices=[first, first + 1], stream="s") for first in (0, 2, 0)]
    one, two, again = [reader.__getitems__(each) for each in asked]
    assert one == again != two


def test_global_ones_and_data_are_none() -> None:
    class Data:
        def __init__(self) -> None:
            self.values = list(range(100_000))
            self.random, self.torch = random, torch.default_generator
            self.draw, self.state = random.random, np.random.random_sample

    assert not KeptGenerators(dataset=Data())
