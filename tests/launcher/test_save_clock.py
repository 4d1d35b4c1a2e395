"""What the coordinator measures, and when it warns."""

from dataclasses import replace
from typing import Any, cast

import pytest

from launcher.environment import RankEnvironment
from launcher.save_clock import SaveClock
from launcher.signals import PreemptionFlag

PLAIN = RankEnvironment.from_environ({})


class Flag:
    deadline: float | None = None


class Watch:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make(watch: Watch, warned: list[str], flag: Flag, **environment: Any) -> SaveClock:
    return SaveClock(
        replace(PLAIN, **environment),
        cast(PreemptionFlag, flag),
        warn=warned.append,
        clock=watch,
    )


def test_nothing_is_known_without_a_limit() -> None:
    assert make(Watch(), [], Flag()).look() is None


def test_the_nearer_limit_counts() -> None:
    watch, flag = Watch(), Flag()
    clock = make(watch, [], flag, end_time_s=1100.0)
    clock.saved(3.0)
    clock.saved(2.0)
    first = clock.look()
    watch.now, flag.deadline = 1004.0, 1020.0
    second = clock.look()
    assert first is not None
    assert second is not None
    assert (first.left_s, first.step_s, first.save_s) == (100.0, 0.0, 3.0)
    assert (second.left_s, second.step_s) == (16.0, 4.0)


def test_what_is_over_is_zero() -> None:
    time = make(Watch(), [], Flag(), end_time_s=900.0).look()
    assert time is not None
    assert time.left_s == 0.0


def test_earlier_attempts_are_remembered() -> None:
    clock = make(Watch(), [], Flag(), end_time_s=2000.0)
    clock.remember([{"event": "saved", "seconds": 7.5}, {"event": "start"}, {"event": "saved"}])
    time = clock.look()
    assert time is not None
    assert time.save_s == 7.5


@pytest.mark.parametrize(
    ("grace_s", "words"),
    [
        (None, None),
        (60.0, None),
        (10.0, "ends it 10 s after its warning"),
        (0.0, "without warning"),
    ],
)
def test_a_grace_that_is_too_short_is_said_once(grace_s: float | None, words: str | None) -> None:
    warned: list[str] = []
    clock = make(Watch(), warned, Flag(), grace_s=grace_s)
    clock.remember([{"event": "saved", "seconds": 20.0}])
    clock.saved(21.0)
    assert len(warned) == (words is not None)
    assert words is None or words in warned[0]
