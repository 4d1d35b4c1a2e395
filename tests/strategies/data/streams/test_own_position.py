"""What a stream says of its position, as JSON and back; a step that is given up; equal parts."""

import json
import multiprocessing
import signal
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from strategies import ConfigError, samples_of
from strategies.data.streams.own_batches import OwnBatches
from strategies.data.streams.own_position import (
    OwnPosition,
    digest_of,
    keeps_position,
    require_parts,
    require_readable,
    what_is_lost,
)
from strategies.data.streams.state_text import from_text, to_text
from strategies.data.streams.streams import WITHOUT_END, has_own_position, is_stream
from strategies.data.workers.worker_signals import shield_workers_of
from strategies.errors import DataNotReady

STATES: list[Any] = [
    None,
    {"a": [1, 2.5, "x", True, None], "b": {"c": ()}},
    (1, (2, [3])),
    {1: "int", "1": "text", (2, 3): "tuple"},
    {"//": "our own key"},
    b"\x00\xff",
    float("inf"),
    2**200,
    np.random.default_rng(1).bit_generator.state,
    np.random.RandomState(1).get_state()[0],
]


@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
def test_a_state_comes_back_as_it_was(state: Any) -> None:
    back = from_text(json.loads(json.dumps(to_text(state, "state"))))
    assert back == state
    assert type(back) is type(state)


def test_the_order_of_names_comes_back_where_a_manifest_sorts_them() -> None:
    """An average of the weights is often applied by `zip(average.values(), model.parameters())`."""
    state = {"2.weight": 1, "10.weight": {"b": 2, "a": 3}, "0.bias": 4}
    back = from_text(json.loads(json.dumps(to_text(state, "state"), sort_keys=True)))
    assert list(back.items()) == list(state.items())
    assert list(back["10.weight"]) == ["b", "a"]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.get_rng_state(),
        torch.tensor(3, dtype=torch.int64),
        torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        torch.empty(0, 3),
        torch.tensor([[True], [False]]),
    ],
)
def test_tensors_come_back_as_they_were(tensor: torch.Tensor) -> None:
    back = from_text(json.loads(json.dumps(to_text(tensor, "state"))))
    assert back.dtype == tensor.dtype
    assert torch.equal(torch.nan_to_num(back), torch.nan_to_num(tensor))


def test_arrays_come_back_as_they_were() -> None:
    for array in (np.arange(6, dtype=np.uint32).reshape(2, 3), np.float16(1.5), np.zeros((0, 2))):
        back = from_text(json.loads(json.dumps(to_text(array, "state"))))
        assert type(back) is type(array)
        assert back.dtype == array.dtype
        assert np.array_equal(back, array)


def test_what_a_checkpoint_cannot_hold_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^state\['a'\]\[1\] is a set, which a checkpoint"):
        to_text({"a": [1, {2}]}, "state")


class Count:
    """0, 1, 2 ... up to an end, then again."""

    def __init__(self, first: int = 0, end: int = 10**6) -> None:
        self.first, self.end = first, end
        self.position = 0
        self.begin = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.begin = self.position = state["position"]

    def __iter__(self) -> Any:
        begin, self.begin = self.begin, 0
        for position in range(begin, self.end):
            self.position = position + 1
            yield torch.tensor(self.first + position)


class Set(Count, IterableDataset[Any]):
    pass


def test_which_data_keeps_its_position() -> None:
    assert keeps_position(Count())
    assert has_own_position(Set())
    assert is_stream(Count())
    assert len(samples_of(Count())) == WITHOUT_END
    for other in ([1], range(3), DataLoader([1]), iter([1]), torch.nn.Linear(1, 1)):
        assert not has_own_position(other)

    class ByIndex(Count):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> int:
            return index

    assert not has_own_position(ByIndex())


def opened(stream: Any, step: int, stops: Any = lambda: False) -> tuple[OwnPosition, OwnBatches]:
    position = OwnPosition(stream, seed=1, rank=0, world_size=1)
    batches = OwnBatches(position, micro_batch=2, collate=None, stops=stops)
    position.open(step, turns=3)
    return position, batches


def place(position: OwnPosition, step: int) -> Any:
    position.gather(step, lambda one: [one])
    return position.state()


def resumed(state: Any, step: int) -> list[Any]:
    position = OwnPosition(Count(), seed=1, rank=0, world_size=1)
    position.restore(state)
    batches = OwnBatches(position, micro_batch=2, collate=None, stops=lambda: False)
    position.open(step, turns=3)
    return next(batches).tolist()


@pytest.mark.parametrize("read", [0, 1, 2, 3])
def test_a_step_that_is_given_up_is_read_again(read: int) -> None:
    position, batches = opened(Count(), 4)
    for _ in range(3 + read):
        next(batches)
    # Step 4 is whole. Of step 5 something was read, which a checkpoint of 5 steps does not count.
    assert resumed(place(position, 5), 5) == [6, 7]
    if read == 3:
        assert resumed(place(position, 6), 6) == [12, 13]


def test_a_rank_that_stops_waiting_goes_on_in_the_middle_of_a_batch() -> None:
    answers = [False, True, True, False, False, False]
    position, batches = opened(Count(), 0, stops=lambda: answers.pop(0))
    for _ in range(2):
        with pytest.raises(DataNotReady):
            next(batches)
    assert resumed(place(position, 0), 0) == [0, 1]
    assert next(batches).tolist() == [0, 1]
    answers += [False] * 10
    next(batches)
    next(batches)
    assert resumed(place(position, 1), 1) == [6, 7]


def test_a_failure_after_a_notice_is_not_the_end() -> None:
    class Broken(Count):
        def __iter__(self) -> Any:
            for sample in super().__iter__():
                if sample == 3:
                    raise RuntimeError("its worker was ended by a signal")
                yield sample

    for is_asked in (True, False):
        position = OwnPosition(Broken(), seed=1, rank=0, world_size=1)
        answer = {"stops": lambda: False, "has_notice": lambda asked=is_asked: asked}
        batches = OwnBatches(position, micro_batch=2, collate=None, **answer)
        position.open(0, turns=3)
        next(batches)
        with pytest.raises(DataNotReady if is_asked else RuntimeError):
            next(batches)
        assert place(position, 0)[0]["state"] == {"position": 0}


def test_workers_of_a_loader_of_its_own_kind_outlive_signals() -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    loader = torchdata.StatefulDataLoader(Handlers(), batch_size=1, num_workers=1)
    shield_workers_of(loader)
    shield_workers_of(loader)
    assert [bool(batch) for batch in loader] == [True] * 3
    before = set(multiprocessing.active_children())
    position, batches = opened(loader, 0)
    assert next(batches).tolist() == [True]
    assert len(set(multiprocessing.active_children()) - before) == 1
    position.close()
    assert not set(multiprocessing.active_children()) - before


class Handlers:
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> bool:
        return callable(signal.getsignal(signal.SIGTERM))


def test_a_stream_begins_again_and_one_without_samples_is_named() -> None:
    _, batches = opened(Count(end=3), 0)
    assert [next(batches).tolist() for _ in range(3)] == [[0, 1], [2, 0], [1, 2]]
    _, batches = opened(Count(end=0), 0)
    with pytest.raises(ConfigError, match="Count that gave no sample in 3 passes"):
        next(batches)


def test_a_run_that_goes_back_leaves_the_data_out() -> None:
    position, batches = opened(Count(), 0)
    state = place(position, 0)
    for _ in range(3):
        next(batches)
    position.restore(state)
    position.open(0, turns=3)
    assert next(batches).tolist() == [6, 7]


def test_ranks_that_read_the_same_are_told_so() -> None:
    def digest(stream: Any) -> str:
        position = OwnPosition(stream, seed=1, rank=0, world_size=2)
        found = position.digest(2)
        position.open(0, turns=1)
        batches = OwnBatches(position, micro_batch=2, collate=None, stops=lambda: False)
        assert next(batches).tolist() == [stream.first, stream.first + 1]
        return found

    position = OwnPosition(Count(), seed=1, rank=0, world_size=3)
    require_parts(position, [digest(Count(0)), digest(Count(1)), digest(Count(2))])
    with pytest.raises(ConfigError, match="the ranks 1 and 2 read the same samples from Count"):
        require_parts(position, [digest(Count(0)), digest(Count(1)), digest(Count(1))])


def test_digests_differ_where_batches_do() -> None:
    batches = [
        [torch.zeros(2)],
        [torch.zeros(2, dtype=torch.float64)],
        {"x": torch.zeros(2)},
        {"y": torch.zeros(2)},
        ["a"],
        ["b"],
        [np.arange(5000)],
        [np.arange(5000) % 4999],
        [{"a": (1, 2)}],
        [{"a": (1, 3)}],
    ]
    assert len({digest_of(batch) for batch in batches}) == len(batches)
    assert digest_of([object()]) == digest_of([object()])


class Loader(DataLoader[Any]):
    def state_dict(self) -> Any:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("stream", "ranks", "words"),
    [
        (Loader(Count(), batch_size=4), 1, "batch_size=4, and micro_batch=2: they are the same"),  # type: ignore[arg-type]
        (Loader([1, 2], batch_size=2), 2, "takes all samples, on each of 2 ranks. Pass its data"),  # type: ignore[arg-type]
        (Count(), 3, r"global_batch=8 must be a multiple of micro_batch=2 times 3 ranks"),
    ],
)
def test_what_cannot_be_read(stream: Any, ranks: int, words: str) -> None:
    to: dict[str, Any] = {"global_batch": 8, "micro_batch": 2, "workers": 0}
    with pytest.raises(ConfigError, match=words):
        require_readable(stream, world_size=ranks, **to)


def test_real_sets_with_a_shuffle_buffer_are_named() -> None:
    datasets = pytest.importorskip("datasets")
    plain = datasets.Dataset.from_dict({"i": list(range(40))}).to_iterable_dataset(num_shards=4)
    assert what_is_lost(plain) is None
    lost = what_is_lost(plain.map(lambda row: row).shuffle(seed=1, buffer_size=8).map(dict))
    assert lost is not None
    assert lost.startswith("its shuffle buffer")
