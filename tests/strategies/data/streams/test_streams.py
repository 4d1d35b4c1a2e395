"""Streams that can seek, and those that cannot."""

import pytest
import torch
from torch.utils.data import IterableDataset

from strategies import ConfigError, SeekableStream, samples_of, training_batches
from strategies.data.batches import BatchPlan
from strategies.data.options import Loading
from strategies.data.streams.streams import WITHOUT_END


class Squares:
    """Sample n is n squared; counts what it is asked for."""

    def __init__(self, end: int = WITHOUT_END) -> None:
        self.start, self.end = 0, end
        self.seeks: list[int] = []
        self.num_read = 0

    def seek(self, position: int) -> None:
        self.start = position
        self.seeks.append(position)

    def __iter__(self):
        for number in range(self.start, self.end):
            self.num_read += 1
            yield torch.tensor(number * number)


def read(stream: SeekableStream, first_step: int, rank: int, world_size: int, steps: int = 6):
    samples = samples_of(stream)
    plan = BatchPlan(
        num_samples=len(samples), global_batch=8, micro_batch=2, steps=steps, in_order=True, seed=0
    )
    to = {"first_step": first_step, "rank": rank, "world_size": world_size}
    return [batch.tolist() for batch in training_batches(samples, plan, **to)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_a_stream_and_read_nothing_twice(world_size: int) -> None:
    streams = [Squares() for _ in range(world_size)]
    batches = [read(s, 3, rank, world_size) for rank, s in enumerate(streams)]
    seen = sorted(number for rank in batches for batch in rank for number in batch)
    assert seen == [n * n for n in range(24, 48)]
    # A resume is one seek and no replay, and one rank alone reads on without seeking.
    assert [s.seeks[0] for s in streams] == [24 + 2 * rank for rank in range(world_size)]
    assert sum(s.num_read for s in streams) == 24
    assert world_size > 1 or streams[0].seeks == [24]


def test_a_stream_that_ends_too_early() -> None:
    with pytest.raises(ConfigError, match="Squares has no sample 20"):
        read(Squares(end=20), 0, 0, 1)


def test_loader_workers_seek_for_themselves() -> None:
    samples = samples_of(Squares())
    plan = BatchPlan(
        num_samples=len(samples), global_batch=4, micro_batch=2, steps=5, in_order=True, seed=0
    )
    batches = training_batches(
        samples, plan, first_step=2, rank=0, world_size=1, loading=Loading(workers=2)
    )
    assert [b.tolist() for b in batches] == [[n * n, (n + 1) ** 2] for n in range(8, 20, 2)]


class OnlyForward(IterableDataset):
    def __iter__(self):
        return iter(range(10))

    def __len__(self) -> int:
        return 10


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (OnlyForward(), "OnlyForward without seek"),
        ((n for n in range(3)), "generator without __len__, __getitem__, seek"),
        ({1, 2}, "set without __getitem__, seek"),
    ],
)
def test_data_that_cannot_go_on_where_it_was(data: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        samples_of(data)
