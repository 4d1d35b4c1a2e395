"""What the coordinator measures, and when it warns."""

from dataclasses import replace
from typing import Any, cast

import pytest

from launcher.contract.environment import RankEnvironment
from launcher.contract.files.end_time import EndTime
from launcher.contract.preemption import PreemptionFlag
from launcher.training.saving.save_deadline import (
    SaveDeadline,
    fits_export,
    too_little_time,
)
from strategies import Look

PLAIN = RankEnvironment.from_environ({})


class Flag:
    requested = False
    deadline: float | None = None


class Watch:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make(
    watch: Watch,
    warned: list[str],
    flag: Flag,
    end_time_s: float | None = None,
    **environment: Any,
) -> SaveDeadline:
    return SaveDeadline(
        replace(PLAIN, **environment),
        cast(PreemptionFlag, flag),
        EndTime(end_time_s, clock=watch),
        warn=warned.append,
        clock=watch,
    )


def test_without_a_limit_only_the_notice_is_told() -> None:
    flag = Flag()
    clock = make(Watch(), [], flag)
    clock.saved(3.0)
    assert clock.look() == Look()
    flag.requested = True
    assert clock.look() == Look(asked=True)


def test_the_nearer_limit_counts() -> None:
    watch, flag = Watch(), Flag()
    clock = make(watch, [], flag, end_time_s=1100.0)
    clock.saved(3.0)
    clock.saved(2.0)
    clock.passed(0.0, 0)
    first = clock.look()
    watch.now, flag.deadline = 1010.0, 1020.0
    clock.passed(6.0, 2)  # ten seconds, six of which were an evaluation
    second = clock.look()
    assert (first.left_s, first.step_s, first.save_s, first.unit_s) == (100.0, 0.0, 3.0, 0.0)
    assert (second.left_s, second.step_s, second.unit_s) == (10.0, 4.0, 2.0)


def test_what_is_over_is_zero() -> None:
    assert make(Watch(), [], Flag(), end_time_s=900.0).look().left_s == 0.0


def test_earlier_attempts_are_remembered() -> None:
    clock = make(Watch(), [], Flag(), end_time_s=2000.0)
    clock.remember([{"event": "saved", "seconds": 7.5}, {"event": "start"}, {"event": "saved"}])
    assert clock.look().save_s == 7.5


def test_before_the_first_save_its_estimate_counts() -> None:
    clock = make(Watch(), [], Flag(), end_time_s=2000.0)
    assert clock.wants_estimate
    assert clock.look().save_s == -1.0
    clock.expect(4.0)
    assert clock.look().save_s == 4.0
    clock.saved(2.0)
    assert not clock.wants_estimate
    assert clock.look().save_s == 2.0


def test_without_a_limit_nothing_is_estimated() -> None:
    assert not make(Watch(), [], Flag()).wants_estimate


def test_how_long_evaluations_took_is_remembered_by_name() -> None:
    clock = make(Watch(), [], Flag())
    clock.evaluated("val", 12.0)
    assert (clock.evaluation_s("val"), clock.evaluation_s("test")) == (12.0, 0.0)


@pytest.mark.parametrize(
    ("grace_s", "step_s", "save_s", "words"),
    [
        (10.0, 4.0, 5.0, None),
        (10.0, 4.0, 6.0, None),
        (
            10.0,
            12.3,
            1.25,
            "a step (12.3 s) and a save (1.2 s), and a preemption here ends it 10 s",
        ),
        (1.0, 0.0, 2.5, "a save of this run takes 2.5 s, and a preemption here ends it 1 s after"),
        (0.0, 3.0, 2.5, "a save of this run takes 2.5 s, and a preemption here ends it without"),
    ],
)
def test_both_numbers_are_said(
    grace_s: float, step_s: float, save_s: float, words: str | None
) -> None:
    said = too_little_time(grace_s, step_s, save_s)
    assert (said is None) == (words is None)
    assert words is None or words in str(said)


def test_a_grace_that_is_shorter_than_a_step_is_said_once() -> None:
    warned: list[str] = []
    watch = Watch()
    clock = make(watch, warned, Flag(), grace_s=5.0)
    clock.saved(1.0)
    for _ in range(8):
        clock.passed(0.0, 1)
        watch.now += 6.0
    (said,) = warned
    assert "a step (6.0 s) and a save (1.0 s)" in said


@pytest.mark.parametrize(
    ("grace_s", "words"),
    [
        (None, None),
        (60.0, None),
        (10.0, "ends it 10 s after the notice"),
        (0.0, "without a notice"),
    ],
)
def test_a_grace_that_is_too_short_is_said_once(grace_s: float | None, words: str | None) -> None:
    warned: list[str] = []
    clock = make(Watch(), warned, Flag(), grace_s=grace_s)
    clock.remember([{"event": "saved", "seconds": 20.0}])
    clock.saved(21.0)
    assert len(warned) == (words is not None)
    assert words is None or words in warned[0]


@pytest.mark.parametrize(
    ("left_s", "save_s", "fits"),
    [
        (None, 100.0, True),  # no deadline is known
        (16.0, 8.0, True),
        (15.0, 8.0, False),  # 1.25 x 8 s, and 5 s for the end of the processes
        (5.5, -1.0, True),  # no save was measured
        (4.0, -1.0, False),
    ],
)
def test_an_export_that_does_not_fit_is_not_begun(
    left_s: float | None, save_s: float, fits: bool
) -> None:
    look = Look(time_is_limited=left_s is not None, left_s=left_s or 0.0, save_s=save_s)
    assert fits_export(look) is fits
