"""The order of a `ResumableLoader`: all samples, the same on a resume, on any number of ranks."""

import itertools
import warnings
from typing import Any

import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from launcher.bridges import ResumableLoader
from launcher.bridges.lightning.texts import loader_text, ranks_text, world_text
from launcher.bridges.resumable_loader import batches_of_rank, epoch_order
from launcher.contract.environment import RankEnvironment


def steps_of(order: list[int], world_size: int, **options: Any) -> list[list[int]]:
    """Each step's samples, of all ranks together."""
    ranks = [
        batches_of_rank(order, batch_size=2, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    return [sorted(itertools.chain(*step)) for step in zip(*ranks, strict=True)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("length", [12, 13, 17])
def test_every_sample_comes_once_and_the_last_step_is_filled_up(
    world_size: int, length: int
) -> None:
    order = epoch_order(length, 3, 7, shuffle=True)
    assert sorted(order) == list(range(length))
    steps = steps_of(order, world_size, begin=0, drop_last=False)
    seen = list(itertools.chain(*steps))
    assert set(seen) == set(range(length))
    assert 0 <= len(seen) - length < world_size
    dropped = steps_of(order, world_size, begin=0, drop_last=True)
    assert dropped == steps[: length // (2 * world_size)]


def test_a_resume_gives_the_rest_of_the_epoch_and_the_next() -> None:
    data = torch.arange(10)
    whole = ResumableLoader(data, 2, shuffle=True, seed=4)
    epochs = [[b.tolist() for b in whole] for _ in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3
    assert len(whole) == 5
    for epoch, number in itertools.product(range(2), range(1, 6)):
        first = ResumableLoader(data, 2, shuffle=True, seed=4)
        for _ in range(epoch):
            list(first)
        list(itertools.islice(iter(first), number))
        second = ResumableLoader(data, 2, shuffle=True, seed=4)
        second.load_state_dict(first.state_dict())
        rest = epochs[epoch][number:] or epochs[epoch + 1]
        assert [b.tolist() for b in second] == rest
        following = epoch + 1 if epochs[epoch][number:] else epoch + 2
        assert following > 2 or [b.tolist() for b in second] == epochs[following]


def test_an_epoch_that_is_broken_off_is_not_continued_by_the_next() -> None:
    loader = ResumableLoader(torch.arange(10), 2)
    assert [b.tolist() for b in itertools.islice(iter(loader), 2)] == [[0, 1], [2, 3]]
    assert len(list(loader)) == 5


def test_it_draws_nothing_from_the_models_random_numbers() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(ResumableLoader(torch.arange(10), 2, shuffle=True))
    assert torch.equal(before, torch.get_rng_state())


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="was given sampler="):
        ResumableLoader([1], sampler=None)
    with pytest.raises(ValueError, match="a list_iterator without a length"):
        ResumableLoader(iter([1]))
    with pytest.raises(ValueError, match=r"Pass seed=0\."):
        ResumableLoader([1], seed=1).load_state_dict(ResumableLoader([1]).state_dict())


def test_which_loaders_resume_at_the_sample() -> None:
    assert loader_text([ResumableLoader([1])]) is None
    text = loader_text([torch.utils.data.DataLoader(TensorDataset(torch.ones(1)))])
    assert text is not None
    assert "a DataLoader, which cannot resume at the sample" in text


def test_a_trainer_of_fewer_ranks_than_were_started_is_refused() -> None:
    environ = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    environment = RankEnvironment.from_environ(environ)
    assert world_text(4, environment) is None
    text = world_text(1, environment)
    assert text is not None
    assert 'Pass Trainer(devices=2, num_nodes=2, strategy="ddp")' in text


@pytest.mark.parametrize(
    ("before", "says"), [(2, None), (3, "is of 3 ranks, and 2 resume"), (None, "without Relaunch")]
)
def test_what_another_number_of_ranks_costs_under_lightning(
    before: int | None, says: str | None
) -> None:
    text = ranks_text(before, 2)
    assert text is None if says is None else says in (text or "")


def test_data_that_each_start_splits_anew_is_told() -> None:
    def loader(indices: list[int]) -> ResumableLoader:
        return ResumableLoader(Subset(TensorDataset(torch.arange(9)), indices), batch_size=1)

    before = loader([4, 2]).state_dict()
    with pytest.warns(UserWarning, match="a subset takes other indices"):
        loader([2, 4]).load_state_dict(before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader([4, 2]).load_state_dict(before)
