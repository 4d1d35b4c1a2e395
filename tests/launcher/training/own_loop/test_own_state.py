"""What a checkpoint of a script's own loop says, and what a start makes of it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from launcher.training.own_loop.data.position import DataPosition, Place
from launcher.training.own_loop.kept_objects import kept_objects
from launcher.training.own_loop.own_state import moved_place, restored_state, state_to_json
from launcher.training.run_state import RunState
from strategies import ConfigError


class Data(DataPosition):
    name = "Data"

    def __init__(self, batch_size: int, dataset: Any = None) -> None:
        self.batch_size = batch_size
        self.loader = SimpleNamespace(dataset=dataset)

    def open(self, place: Place) -> None:  # type: ignore[override]
        raise AssertionError

    def moved(self, place: Place, before: int, now: int) -> tuple[Place, str]:
        return Place(epoch=9), f"{before} to {now}"

    @property
    def not_promised(self) -> list[str]:
        return ["the moon"]


PLACE = Place(epoch=1, batches=2, samples=8)


def test_there_and_back() -> None:
    saved = state_to_json(RunState(step=7), PLACE, Data(4), 2, None)
    state, place = restored_state(saved, where="r")
    assert (state.step, place) == (7, PLACE)
    with pytest.raises(ConfigError, match=r"in r was trained with run\.prepare or run\.fit"):
        restored_state({"step": 7}, where="r")


@pytest.mark.parametrize(
    ("batch_size", "world_size", "place", "changed", "moved", "lost"),
    [
        (4, 2, PLACE, [], [], ["the moon"]),
        (8, 1, Place(epoch=9), [], ["data: 2 to 1"], 2),
        (
            *(4, 1, Place(epoch=9)),
            *(["samples in a batch over all ranks: 8 -> 4, so another curve"], ["data: 2 to 1"], 2),
        ),
    ],
)
def test_what_another_start_is_told(
    batch_size: int,
    world_size: int,
    place: Place,
    changed: list[str],
    moved: list[str],
    lost: list[str] | int,
) -> None:
    saved = state_to_json(RunState(step=7), PLACE, Data(4), 2, None)
    found = moved_place(saved, PLACE, Data(batch_size), world_size, {})
    assert found[:3] == (place, changed, moved)
    assert lost in (found[3], len(found[3]))


WHOLE = TensorDataset(torch.arange(9))


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        (Subset(WHOLE, [3, 1]), Subset(WHOLE, [3, 1]), None),
        (Subset(WHOLE, [3, 1]), Subset(WHOLE, [1, 3]), "a subset takes other indices"),
        ([1, 2, 3], [1, 2, 3, 4], "another number of samples (3 -> 4)"),
        ([1, 2, 3], [1, 2, 4], "samples differ"),
        (iter([1]), iter([2]), None),
    ],
)
def test_data_that_is_made_anew_at_each_start_is_told(
    then: Any, now: Any, says: str | None
) -> None:
    saved = state_to_json(RunState(step=7), PLACE, Data(4, then), 2, None)
    _, changed, _, _ = moved_place(saved, PLACE, Data(4, now), 2, {})
    assert len(changed) == (says is not None)
    assert all(str(says) in text for text in changed)


class AcceleratedScheduler:
    """As accelerate's, of which only this is looked at."""

    def __init__(self, *, by_ranks: bool) -> None:
        self.step_with_optimizer, self.split_batches = True, not by_ranks

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


@pytest.mark.parametrize(("by_ranks", "ranks"), [(True, 1), (True, 2), (False, 1)])
def test_a_schedule_that_is_stepped_by_ranks_is_told_on_other_ranks(
    by_ranks: bool, ranks: int
) -> None:
    saved = state_to_json(RunState(step=7), PLACE, None, 2, None)
    objects = kept_objects([AcceleratedScheduler(by_ranks=by_ranks)], {})
    _, changed, _, _ = moved_place(saved, PLACE, None, ranks, objects)
    assert len(changed) == (by_ranks and ranks == 1)
    assert all("once for each rank: 2 times in a step before, 1 now" in one for one in changed)
