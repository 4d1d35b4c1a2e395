import math

import pytest

from strategies import schedules
from strategies.schedules import Schedule


def test_warmup_ends_at_one_and_stays() -> None:
    schedule = schedules.warmup(4)
    assert [schedule(s, 10) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_runs_from_one_to_its_floor_at_the_last_step() -> None:
    schedule = schedules.cosine(floor=0.1)
    assert schedule(0, 101) == 1.0
    assert schedule(50, 101) == pytest.approx(0.55)
    assert schedule(100, 101) == pytest.approx(0.1)
    assert schedule(500, 101) == pytest.approx(0.1)


def test_phases_follow_each_other_and_share_the_run() -> None:
    schedule = schedules.warmup(10).then(schedules.cosine(floor=0.0))
    assert schedule(9, 110) == 1.0
    assert schedule(10, 110) == 1.0
    assert schedule(109, 110) == pytest.approx(0.0, abs=1e-12)
    values = [schedule(s, 110) for s in range(10, 110)]
    assert values == sorted(values, reverse=True)


def test_three_phases() -> None:
    schedule = schedules.warmup(2).then(schedules.warmup(2)).then(schedules.constant())
    assert [schedule(s, 10) for s in range(5)] == [0.5, 1.0, 0.5, 1.0, 1.0]


def test_a_rate_in_place_of_a_factor_is_refused() -> None:
    for value in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="factor between 0 and 1"):
            Schedule(lambda step, steps, v=value: v)(3, 10)


def test_what_has_no_end_cannot_be_followed() -> None:
    with pytest.raises(ValueError, match="nothing can follow"):
        schedules.cosine().then(schedules.constant())
    with pytest.raises(ValueError, match="nothing can follow"):
        schedules.warmup(2).then(schedules.cosine()).then(schedules.constant())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        schedules.warmup(0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        schedules.cosine(floor=2.0)
