"""The batches over all ranks are the same on any number of them, and from any place on."""

import random
from itertools import chain

import pytest
import torch
from torch.utils.data import Dataset

from launcher import GlobalBatches
from launcher.training.own_loop.data.position import Place, data_position
from strategies import ConfigError


class Drawing(Dataset[tuple[int, float]]):
    """Each sample draws a number as it is read."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, random.random()


def read(ranks: int, place: Place, global_batch: int = 8) -> list[list[tuple[int, float]]]:
    """The batches over all ranks."""
    parts = []
    for rank in range(ranks):
        loader = GlobalBatches(Drawing(), global_batch)
        loader.rank, loader.world_size = rank, ranks
        loader.batch_size = global_batch // ranks
        batches = data_position(loader).open(place)
        parts.append([list(zip(*(part.tolist() for part in b), strict=True)) for b in batches])
    return [list(chain.from_iterable(batch)) for batch in zip(*parts, strict=True)]


def test_any_number_of_ranks_from_any_place_on() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    whole = read(1, Place(epoch=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(whole) == 2
    assert len({index for batch in whole for index, _ in batch}) == 16
    assert read(2, Place(epoch=2)) == whole
    assert read(4, Place(epoch=2, batches=1)) == whole[1:]
    assert read(1, Place(epoch=3)) != whole


def test_a_move_to_other_ranks_keeps_the_batch() -> None:
    position = data_position(GlobalBatches(Drawing(), 8))
    moved, sentence = position.moved(Place(epoch=1, batches=1, samples=4), 2, 1)
    assert moved == Place(epoch=1, batches=1, samples=8)
    assert "the same batches as on 2 ranks, from batch 1 on" in sentence


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="22 samples, fewer than global_batch=64"):
        GlobalBatches(Drawing(), 64)
