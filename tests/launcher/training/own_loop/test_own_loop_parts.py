"""The pure parts of a loop that is the script's: what is compared, kept, due and named."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from launcher.training.own_loop.agreement import agreed_metrics
from launcher.training.own_loop.kept_objects import kept_objects
from launcher.training.own_loop.random_state import random_state, set_random_state
from launcher.training.own_loop.rank_places import RankPlaces
from launcher.training.own_loop.settings import Settings, parse_due
from launcher.training.own_loop.watch import PATIENCE_S, Wait, Watch, parted
from strategies import ConfigError, HostCommunicator, Ranks


@pytest.mark.parametrize(
    ("calls", "batch", "is_named"),
    [
        (2, 3, False),  # still in the batch of that call
        (2, 4, True),  # went on without it
        (3, 9, False),  # has made it
    ],
)
def test_only_a_rank_that_went_on_is_named(calls: int, batch: int, is_named: bool) -> None:
    wait = Wait(rank=0, what="run.step", where="train.py:7", calls=3, batch=3)
    assert (parted(1, calls, batch, wait) is not None) == is_named


def test_a_long_wait_is_known_with_the_line_of_the_script() -> None:
    alone = Ranks(rank=0, world_size=1, device=torch.device("cpu"), host_group=None)  # type: ignore[arg-type]
    watch = Watch(alone, end_process=pytest.fail)
    with watch.waiting("run.step", calls=3, batch=2):
        assert watch._long_wait(10.0) is None  # it may have begun just now
        assert watch._long_wait(9.9 + PATIENCE_S) is None
        known = watch._long_wait(10.0 + PATIENCE_S)
        assert known is not None
        assert (known.what, known.calls, known.batch) == ("run.step", 3, 2)
        assert known.where.startswith("test_own_loop_parts.py:")
    assert watch._long_wait(20.0) is None
    with watch.waiting("run.step", calls=4, batch=3):  # another wait has its own time
        assert watch._long_wait(20.0) is None


def test_a_metric_is_the_same_on_all_ranks_or_averaged() -> None:
    assert agreed_metrics([{"a": 1.0}, {"a": 1.0}], average=False) == {"a": 1.0}
    nan = float("nan")
    assert str(agreed_metrics([{"a": nan}, {"a": nan}], average=False)["a"]) == "nan"
    with pytest.raises(ConfigError, match=r"a=1 on rank 0 and 3 on rank 1.*average=True"):
        agreed_metrics([{"a": 1.0}, {"a": 3.0}], average=False)
    assert agreed_metrics([{"a": 1.0}, {"a": 3.0}], average=True) == {"a": 2.0}
    with pytest.raises(ConfigError, match="given a on rank 0, and b on rank 1"):
        agreed_metrics([{"a": 1.0}, {"b": 1.0}], average=True)


def test_random_numbers_go_on() -> None:
    generator = torch.Generator().manual_seed(4)
    device = torch.device("cpu")

    def draw() -> list[float]:
        drawn = [random.random(), float(np.random.rand()), random.gauss(0, 1)]
        return [*drawn, float(torch.rand(1)), float(torch.rand(1, generator=generator))]

    draw()
    places = RankPlaces(0)
    alone = Ranks(rank=0, world_size=1, device=device, host_group=None)  # type: ignore[arg-type]
    communicator = HostCommunicator(alone)
    communicator.gather = lambda value: [value]  # type: ignore[method-assign]
    places.gather({"random": random_state(device, [generator])}, communicator)
    expected = draw()
    places.restore(places.state())
    assert places.restored is not None
    set_random_state(places.restored["random"], device, [generator])
    assert draw() == expected
    another = RankPlaces(1)  # a rank that was not there when it was saved
    another.restore(places.state())
    assert another.restored is None


class WithState:
    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def test_what_has_state_dict_is_kept_as_it_is() -> None:
    state = {"milestones": (3, 5), "best": float("inf"), 7: torch.ones(2)}
    kept = kept_objects([WithState(state)], {"scaler": WithState({"scale": 2.0})})
    assert list(kept) == ["scheduler 0", "scaler"]
    other = WithState(None)
    (restored,) = kept_objects([other], {}).values()
    restored.restore(kept["scheduler 0"].state())
    assert other.state.keys() == state.keys()
    assert other.state["milestones"] == (3, 5)
    with pytest.raises(ConfigError, match=r"schedulers\[0\], a object, has no state_dict\(\)"):
        kept_objects([object()], {})
    with pytest.raises(ConfigError, match=r'objects\["x"\].state_dict\(\) is a object, which a'):
        kept_objects([], {"x": WithState(object())})


@pytest.mark.parametrize(
    ("text", "step", "epoch", "ends", "due"),
    [
        ("2 epochs", 10, 1, True, True),
        ("2 epochs", 10, 0, True, False),
        ("1 epoch", 10, 0, False, False),
        ("5 steps", 10, 0, False, True),
        ("4 steps", 10, 0, True, False),
    ],
)
def test_when_it_is_due(text: str, step: int, epoch: int, ends: bool, due: bool) -> None:
    assert parse_due(text, name="a").is_due(step, epoch, ends_epoch=ends) == due


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"evaluate": "0.5 epoch"}, "whole epochs"),
        ({"evaluate": "5 min"}, "could not be repeated"),
        ({"keep": 0}, "keep=0 must be at least 1"),
        ({"save": "now"}, 'save_every="now" is no interval'),
    ],
)
def test_settings_that_cannot_work(wrong: dict[str, Any], words: str) -> None:
    usual: dict[str, Any] = {"stop": None, "evaluate": "1 epoch", "save": "5 min"}
    with pytest.raises(ConfigError, match=words):
        Settings.of(**{**usual, "keep": 3, "log_every": 10, **wrong})
