"""What samples draw: a function of seed, epoch and index, whoever reads them and with whom."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset

from strategies import ConfigError, samples_of
from strategies.data.batches import BatchPlan, assignment, consecutive
from strategies.data.options import Loading
from strategies.data.reading.loading import EvaluationLoaders, training_batches
from strategies.data.reading.samples import IndexList, SampleReader, reads_whole_batches
from strategies.data.seeding import kept_streams, seed_of, seeds_of, stream_seed, training_samples


def draw() -> tuple[float, float, float]:
    return torch.rand((), dtype=torch.float64).item(), float(np.random.rand()), random.random()


class Noisy:
    """Samples that draw, from `first` on."""

    def __init__(self, first: int = 0) -> None:
        self.first = first

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[int, tuple[float, float, float]]:
        return index, draw() if index >= self.first else (0.0, 0.0, 0.0)


class OfTorch(Noisy):
    def __getitem__(self, index: int) -> Any:
        return index, (torch.rand((), dtype=torch.float64).item(), 0.0, float(torch.initial_seed()))


class OfRandom(Noisy):
    def __getitem__(self, index: int) -> Any:
        return index, (0.0, 0.0, random.random() if index >= self.first else 0.0)


class WholeBatches(Noisy):
    def __getitems__(self, indices: list[int]) -> Any:
        return [(index, draw()) for index in indices]


class Stream:
    def __init__(self) -> None:
        self.position = 0

    def seek(self, position: int) -> None:
        self.position = position

    def __iter__(self) -> Any:
        while True:
            yield self.position, draw()
            self.position += 1


def keep(samples: list[Any]) -> list[Any]:
    return samples


def read(data: Any, *, ranks: int = 1, first_step: int = 0, **changes: Any) -> dict[Any, Any]:
    """Return what was drawn, by epoch and index, over all ranks."""
    samples = samples_of(data)
    is_stream = len(samples) > 24
    values: dict[str, Any] = {"global_batch": 6, "micro_batch": 2, "seed": 3}
    for name in ("micro_batch", "seed"):
        if name in changes:
            values[name] = changes.pop(name)
    size = {"steps": 8} if is_stream else {"epochs": 2}
    plan = BatchPlan(num_samples=len(samples), in_order=is_stream, **size, **values)
    found: dict[Any, Any] = {}
    for rank in range(ranks):
        batches = training_batches(
            samples,
            plan,
            first_step=first_step,
            rank=rank,
            world_size=ranks,
            loading=Loading(collate=keep, **changes),
        )
        for step in range(first_step, plan.total_steps):
            for _ in plan.turns(step, rank, ranks):
                for index, drawn in next(batches):
                    key = (plan.epoch_of(step), index)
                    assert found.setdefault(key, drawn) == drawn
        batches.close()
    return found


KINDS = {
    "samples": Noisy,
    "late samples": lambda: Noisy(20),
    "torch alone": OfTorch,
    "random alone": lambda: OfRandom(11),
    "whole batches": WholeBatches,
    "part": lambda: Subset(Noisy(), range(24)),  # type: ignore[arg-type]
    "part of whole batches": lambda: Subset(WholeBatches(), range(24)),  # type: ignore[arg-type]
    "stream": Stream,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_on_any_number_of_ranks_and_workers(kind: str) -> None:
    data = KINDS[kind]
    alone = read(data())
    assert len(alone) == 48
    for ranks, workers in ((2, 0), (3, 0), (1, 2), (2, 1)):
        assert read(data(), ranks=ranks, workers=workers) == alone
    for first_step in (1, 5):
        resumed = read(data(), ranks=2, first_step=first_step)
        assert resumed.items() <= alone.items()
        assert len(resumed) >= 48 - 6 * first_step
    assert read(data(), seed=4) != alone
    drawn = [value for value in alone.values() if any(value)]
    assert len(set(drawn)) == len(drawn) > 0


@pytest.mark.parametrize("kind", ["samples", "late samples", "random alone", "stream", "part"])
def test_what_a_sample_draws_does_not_follow_what_it_is_read_with(kind: str) -> None:
    assert read(KINDS[kind](), micro_batch=3) == read(KINDS[kind]())


def test_data_and_model_do_not_share_a_stream() -> None:
    drawn = set(read(Noisy()).values())
    for step in range(8):
        for micro_batch in range(24):
            torch.manual_seed(stream_seed(3, step, micro_batch))
            assert torch.rand((), dtype=torch.float64).item() not in {value[0] for value in drawn}


def test_samples_that_draw_where_none_did_are_read_once_more() -> None:
    asked: list[int] = []

    class Watched(OfRandom):
        def __getitem__(self, index: int) -> Any:
            asked.append(index)
            return super().__getitem__(index)

    reader = SampleReader(Watched(first=5), keep)
    lists = [list(range(start, start + 2)) for start in range(0, 12, 2)]
    stream = training_samples(0, 0)
    found = [reader.__getitems__(IndexList(indices=one, stream=stream)) for one in lists]
    # The samples 4 and 5 are those in which it shows.
    assert asked == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9, 10, 11]
    for index, drawn in (sample for batch in found for sample in batch):
        random.seed(seed_of(stream, index))
        assert drawn[2] == (random.random() if index >= 5 else 0.0)


def test_a_failure_by_chance_is_that_of_the_sample() -> None:
    class Fails(Noisy):
        def __getitem__(self, index: int) -> Any:
            if index >= 4 and random.random() < 0.5:
                raise ValueError(str(index))
            return index, ()

    def failures(lists: list[list[int]]) -> set[str]:
        reader, found = SampleReader(Fails(), keep), set()
        for one in lists:
            try:
                reader.__getitems__(IndexList(indices=one, stream="s"))
            except ValueError as error:
                found.add(str(error))
        return found

    one_by_one = failures([[index] for index in range(24)])
    assert len(one_by_one) > 3
    assert failures([[0, 1], [2, 3], *([index] for index in range(4, 24))]) == one_by_one


def test_a_batch_that_is_read_again_has_the_same_numbers(tmp_path: Path) -> None:
    class Mortal(Noisy):
        def __getitem__(self, index: int) -> Any:
            found = super().__getitem__(index)
            if index == 17 and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os._exit(3)
            return found

    with pytest.warns(RuntimeWarning, match="read again"):
        assert read(Mortal(), workers=2) == read(Noisy())


def test_a_collate_function_draws_by_its_micro_batch() -> None:
    def mixed(samples: list[Any]) -> Any:
        first = samples[0][0]
        return [(f"mixed {first}", draw()), *samples]

    def keys(ranks: int, workers: int) -> dict[Any, Any]:
        plan = BatchPlan(num_samples=24, global_batch=6, micro_batch=2, epochs=1, seed=3)
        found = {}
        for rank in range(ranks):
            loading = Loading(collate=mixed, workers=workers)
            to = {"first_step": 0, "rank": rank, "world_size": ranks, "loading": loading}
            for batch in training_batches(Noisy(), plan, **to):
                found |= dict(batch)
        return found

    alone = keys(1, 0)
    assert len(alone) == 24 + 12
    assert len(set(alone.values())) == len(alone)
    assert keys(2, 0) == keys(3, 1) == alone


def test_an_evaluation_draws_by_its_name_and_not_by_the_step() -> None:
    def evaluated(
        name: str, ranks: int, workers: int, loaders: EvaluationLoaders
    ) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        loading = Loading(collate=keep, workers=workers, persistent=workers > 0)
        for rank in range(ranks):
            turns = assignment(consecutive(24, 5), rank, ranks)
            with loaders.open(Noisy(), turns, name, loading=loading) as batches:
                for _ in turns:
                    found |= dict(next(batches))
        return found

    loaders = EvaluationLoaders(3, {})
    alone = evaluated("val", 1, 0, loaders)
    assert evaluated("val", 2, 1, loaders) == evaluated("val", 3, 0, loaders) == alone
    assert not {*evaluated("test", 1, 0, loaders).values()} & {*alone.values()}
    assert not {*read(Noisy()).values()} & {*alone.values()}
    loaders.close()


def test_workers_that_persist_are_the_same_and_replaced_when_dead() -> None:
    data, loading = Pids(), Loading(workers=2, persistent=True)
    loaders = EvaluationLoaders(0, {"warn": print})

    def readers() -> set[int]:
        turns = assignment(consecutive(24, 3), 0, 1)
        with loaders.open(data, turns, "val", loading=loading) as batches:
            found = [next(batches) for _ in turns]
        assert [row for batch in found for row in batch[0].tolist()] == list(range(24))
        return {pid for batch in found for pid in batch[1].tolist()}

    first = readers()
    assert len(first) == 2
    assert readers() == readers() == first
    os.kill(min(first), 9)
    second = readers()
    assert len(second) == 2
    assert not second & first
    # Broken off: they may have anything in hand.
    turns = assignment(consecutive(24, 3), 0, 1)
    with loaders.open(data, turns, "val", loading=loading) as batches:
        next(batches)
    assert not readers() & second
    loaders.close()
    assert not readers() & readers()  # behind the training nobody waits


class Pids(Noisy):
    def __getitem__(self, index: int) -> Any:
        return index, os.getpid()


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (Noisy(), False),
        (WholeBatches(), True),
        (Subset(Noisy(), [0]), False),  # type: ignore[arg-type]
        (Subset(Subset(WholeBatches(), [0]), [0]), True),  # type: ignore[arg-type]
        (StackDataset(TensorDataset(torch.ones(2)), TensorDataset(torch.ones(2))), False),
        (StackDataset(a=TensorDataset(torch.ones(24)), b=WholeBatches()), True),  # type: ignore[arg-type]
        (ConcatDataset([TensorDataset(torch.ones(2))]), False),
    ],
)
def test_which_data_sets_read_whole_batches(data: Any, answer: bool) -> None:
    assert reads_whole_batches(data) is answer


def test_seeds_of_many_are_those_of_each() -> None:
    assert seeds_of("a/b", [0, 7, 12345678901]) == [seed_of("a/b", i) for i in (0, 7, 12345678901)]


def test_streams_are_put_back() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with kept_streams():
        first = draw()
    assert draw() == first


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_of_other_shapes_get_a_sentence(workers: int) -> None:
    class Ragged(Noisy):
        def __getitem__(self, index: int) -> Any:
            return {"ids": torch.zeros(1 + index % 3)}

    plan = BatchPlan(num_samples=24, global_batch=4, micro_batch=4, epochs=1, seed=3)
    to: dict[str, Any] = {"first_step": 0, "rank": 0, "world_size": 1}
    batches = training_batches(Ragged(), plan, **to, loading=Loading(workers=workers))
    with pytest.raises(ConfigError, match=r"^the samples \d+ and \d+ cannot be .*Pass collate="):
        next(batches)
    batches.close()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"workers": -1}, "workers=-1 must not be negative"),
        ({"workers": 1, "prefetch": 0}, "prefetch=0 must be at least 1"),
        ({"collate": 3}, "collate=3 is of type int; it must be a function"),
        ({"prefetch": 4}, "prefetch= is for loader processes, and workers=0 has none"),
        ({"persistent": True, "worker_init": print}, "worker_init= and persistent= are for loader"),
    ],
)
def test_what_cannot_be_asked_of_loading(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Loading(**asked)
