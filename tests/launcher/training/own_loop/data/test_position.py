"""A loader is run on to a place without reading, and what has no place is refused."""

import sys
from collections.abc import Iterator
from itertools import chain
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
)

from launcher.training.own_loop.data.position import Place, data_position
from strategies import ConfigError


class Numbers(Dataset[int]):
    """Counts what is read."""

    def __init__(self, size: int = 20) -> None:
        self.size, self.read = size, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        self.read += 1
        return index


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(20))


def dealt(rank: int, ranks: int, batch_size: int, data: Numbers) -> DataLoader[int]:
    sampler: Any = DistributedSampler(data, num_replicas=ranks, rank=rank, seed=1)
    return DataLoader(data, batch_size=batch_size, sampler=sampler)


def lists(batches: Iterator[Any]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def test_the_rest_of_an_epoch_is_the_same_and_nothing_is_read_for_it() -> None:
    data = Numbers()
    whole = lists(data_position(dealt(0, 2, 2, data)).open(Place(epoch=3)))
    position, data.read = data_position(dealt(0, 2, 2, data)), 0
    place = Place(epoch=3, batches=2, samples=4)
    assert position.left(place) == 3
    assert lists(position.open(place)) == whole[2:]
    assert data.read == 6
    # The next epoch is a whole one again.
    following = lists(data_position(dealt(0, 2, 2, data)).open(Place(epoch=4)))
    assert lists(position.open(Place(epoch=4))) == following


def test_workers_that_stay_begin_the_next_epoch_at_its_begin() -> None:
    loader: DataLoader[int] = DataLoader(
        Numbers(), batch_size=5, num_workers=1, persistent_workers=True
    )
    position = data_position(loader)
    place = Place(batches=3, samples=15)
    assert lists(position.open(place)) == [[15, 16, 17, 18, 19]]
    assert len(lists(position.open(Place(epoch=1)))) == 4


def test_other_ranks_get_the_rest_each_sample_once() -> None:
    place = Place(epoch=1, batches=2, samples=4)
    done: list[int] = []
    for rank in range(2):
        batches = lists(data_position(dealt(rank, 2, 2, Numbers())).open(Place(epoch=1)))
        done += chain.from_iterable(batches[:2])
    for ranks in (1, 4):
        rest: list[int] = []
        for rank in range(ranks):
            position = data_position(dealt(rank, ranks, 3, Numbers()))
            moved, sentence = position.moved(place, 2, ranks)
            batches = lists(position.open(moved))
            assert len(batches) == position.left(moved)
            rest += chain.from_iterable(batches)
        assert sorted(done + rest) == list(range(20))
        assert "from sample 8 on" in sentence
        assert "second time" not in sentence


def test_what_does_not_come_out_even_is_stated() -> None:
    position = data_position(dealt(0, 3, 2, Numbers()))
    moved, sentence = position.moved(Place(batches=2, samples=4), 2, 3)
    assert moved.samples == 2
    assert "2 of them come a second time" in sentence


def test_an_order_from_torchs_own_stream_is_drawn_again() -> None:
    def loader() -> DataLoader[int]:
        return DataLoader(Numbers(), batch_size=4, shuffle=True)

    torch.manual_seed(5)
    whole = lists(iter(loader()))
    torch.manual_seed(5)
    assert lists(data_position(loader()).open(Place(batches=2, samples=8))) == whole[2:]


def test_a_batch_sampler_of_the_scripts_own_is_run_on() -> None:
    class Ours(BatchSampler):
        pass

    batches = Ours(RandomSampler(range(20), generator=torch.Generator()), 4, drop_last=False)
    loader: DataLoader[int] = DataLoader(Numbers(), batch_sampler=batches)
    position = data_position(loader)
    assert position.batch_size == 4
    assert len(list(position.open(Place(batches=3, samples=12)))) == 2
    assert "is up to Ours" in position.moved(Place(batches=3, samples=12), 1, 2)[1]


class Stateful:
    """A loader that says where it is."""

    batch_size = 2

    def __init__(self) -> None:
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]

    def __iter__(self) -> Iterator[int]:
        while self.at < 6:
            self.at += 1
            yield self.at
        self.at = 0


def test_a_loader_with_state_is_put_back_by_itself() -> None:
    first = data_position(Stateful())
    batches = first.open(Place())
    assert [next(batches), next(batches)] == [1, 2]
    second = data_position(Stateful())
    second.restore(first.state())
    assert list(second.open(Place(batches=2))) == [3, 4, 5, 6]
    assert second.num_batches is None
    with pytest.raises(ConfigError, match="saved on 2 ranks: on 1 it would read other samples"):
        second.moved(Place(batches=2), 2, 1)


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (None, "none was passed"),
        (iter([1]), "list_iterator, which cannot report its position"),
        (DataLoader(Endless()), "Endless, an IterableDataset, which cannot report its position"),
    ],
)
def test_what_has_no_place_is_refused(loader: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        data_position(loader)


def test_a_loader_of_fabrics_is_read_from_inside_and_its_batches_are_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    like = ModuleType("fabric_like")
    like.move_data_to_device = lambda batch, device: (batch, device)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fabric_like", like)
    kind = type("_FabricDataLoader", (), {"__module__": "fabric_like"})
    loader: Any = kind()
    loader._dataloader, loader.device = DataLoader(range(8), batch_size=4), "there"  # type: ignore[arg-type]
    data = data_position(loader)
    assert data.loader is loader._dataloader
    assert data.ready("batch") == ("batch", "there")
    loader.device = None
    assert data_position(loader).ready("batch") == "batch"


def test_what_each_rank_draws_for_itself_is_not_promised_on_other_ranks() -> None:
    kind = type("DistributedSamplerWrapper", (DistributedSampler,), {})
    sampler = kind(range(8), num_replicas=2, rank=0)
    data = data_position(DataLoader(range(8), batch_size=2, sampler=sampler))  # type: ignore[arg-type]
    _, sentence = data.moved(Place(epoch=1, batches=1, samples=2), 2, 1)
    assert "which samples those are is up to" in sentence


def of_accelerate(rank: int, ranks: int, batch_size: int, data: Any, **options: Any) -> Any:
    """A loader as accelerate prepares it, without its processes."""
    shared = pytest.importorskip("accelerate.data_loader")
    torch.manual_seed(7)
    loader: Any = DataLoader(data, batch_size=batch_size, shuffle=options.pop("shuffle", True))
    made = {"use_seedable_sampler": True, **options, "put_on_device": False}
    return shared.prepare_data_loader(loader, num_processes=ranks, process_index=rank, **made)


@pytest.mark.parametrize(("before", "now"), [(1, 2), (2, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("options", [{}, {"shuffle": False}])
def test_a_loader_of_accelerate_deals_the_rest_to_other_ranks(
    before: int, now: int, options: dict[str, Any]
) -> None:
    pytest.importorskip("accelerate").PartialState(cpu=True)
    of_step = 12
    done: list[int] = []
    for rank in range(before):
        loader = of_accelerate(rank, before, of_step // before, Numbers(48), **options)
        done += chain.from_iterable(lists(data_position(loader).open(Place(epoch=1)))[:2])
    place = Place(epoch=1, batches=2, samples=2 * of_step // before)
    rest: list[int] = []
    for rank in range(now):
        position = data_position(of_accelerate(rank, now, of_step // now, Numbers(48), **options))
        moved, sentence = position.moved(place, before, now)
        rest += chain.from_iterable(lists(position.open(moved)))
    assert sorted(done + rest) == list(range(48))
    assert f"the rest of epoch 1 in its order, which accelerate deals to {now} ranks" in sentence


def test_where_each_rank_draws_the_order_the_place_is_that_of_the_samples() -> None:
    pytest.importorskip("accelerate").PartialState(cpu=True)
    loader = of_accelerate(0, 2, 4, Numbers(48), use_seedable_sampler=False)
    position = data_position(loader)
    moved, sentence = position.moved(Place(batches=3, samples=24), 1, 2)
    assert (moved.batches, moved.samples) == (3, 12)
    assert "from about sample 24 on" in sentence


def test_batches_that_accelerate_splits_count_as_a_ranks_part() -> None:
    pytest.importorskip("accelerate").PartialState(cpu=True)
    position = data_position(of_accelerate(1, 2, 8, Numbers(48), split_batches=True))
    assert position.batch_size == 4
    moved, _ = position.moved(Place(batches=2, samples=16), 1, 2)
    assert lists(position.open(moved)) == lists(position.open(Place()))[2:]


class WithState(DataLoader[int]):
    """As torchdata's StatefulDataLoader."""

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_shuffled_loader_with_state_inside_accelerates_is_refused(shuffle: bool) -> None:
    inside = WithState(Numbers(), batch_size=4, shuffle=shuffle)
    loader: Any = type("DataLoaderShard", (), {"base_dataloader": inside, "batch_size": 4})()
    if not shuffle:
        assert data_position(loader).batch_size == 4
        return
    with pytest.raises(ConfigError, match="so some samples come twice and some not at all"):
        data_position(loader)
