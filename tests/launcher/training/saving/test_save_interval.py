import math

import pytest

from launcher.training.recipe.interval import Every
from launcher.training.reporting.save_log import failing_saves
from launcher.training.saving.save_interval import (
    FIRST_S,
    LEAST_S,
    MOST_S,
    SaveInterval,
    auto_interval_s,
    failures_of,
    saves_of,
    time_between_failures_s,
)


@pytest.mark.parametrize(
    ("stall_s", "duration_s", "between_s", "expected_s"),
    [
        (0.5, 2.0, 86400.0, math.sqrt(86400.0)),  # 294 s: Young's formula
        (2.0, 2.0, 86400.0, 2 * math.sqrt(86400.0)),  # four times the cost, twice the interval
        (0.5, 2.0, 86400.0 / 4, math.sqrt(86400.0) / 2),
        (0.0, 0.03, 86400.0, LEAST_S),  # a free save
        (0.0001, 0.03, 49.0, LEAST_S),
        (0.001, 300.0, 86400.0, 900.0),  # the disk is busy for longer than the formula asks
        (600.0, 1.0, 86400.0, MOST_S),
        (600.0, 4000.0, 86400.0, 12000.0),  # even so, no save waits for the one before
    ],
)
def test_the_interval(stall_s, duration_s, between_s, expected_s):
    assert auto_interval_s(stall_s, duration_s, between_s) == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("running_s", "failures", "expected_s"),
    [
        (0.0, 0, FIRST_S),  # nothing is known yet
        (3600.0 - FIRST_S, 0, 3600.0),  # it is expected to go on for as long as it has gone on
        (3600.0 - FIRST_S, 1, 1800.0),
        (3600.0 - FIRST_S, 4, 720.0),
    ],
)
def test_the_time_between_failures(running_s, failures, expected_s):
    assert time_between_failures_s(running_s, failures) == expected_s


def event(kind, minute):
    return {"event": kind, "time": f"2026-01-01T10:{minute:02d}:00.000+00:00"}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], (0.0, 0)),
        ([event("start", 0)], (0.0, 1)),  # killed before it said anything else
        ([event("start", 0), event("saved", 5), event("end", 10)], (600.0, 0)),
        ([event("start", 0), event("saved", 5), event("start", 20), event("end", 21)], (360.0, 1)),
        ([event("start", 0), event("saved", 5), event("start", 6)], (300.0, 2)),
        ([event("start", 30), event("end", 2)], (0.0, 0)),  # the clock was set back
        ([event("restart", 0), event("start", 1), event("end", 3)], (120.0, 0)),
        # Started again when it was finished: no failure.
        (
            [event("start", 0), event("end", 5), event("start", 8), event("already over", 9)],
            (360.0, 0),
        ),
    ],
)
def test_what_a_run_has_been_through(events, expected):
    assert failures_of(events) == expected


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def save(pace, clock, stall_s, duration_s):
    pace.begin()
    clock.now_s += stall_s
    pace.training_continues()
    clock.now_s += duration_s - stall_s
    assert pace.seconds == pytest.approx(duration_s)
    return pace.concluded(clock.now_s)


def test_the_pace_follows_what_saves_cost():
    clock = Clock()
    pace = SaveInterval(Every(auto=True), clock, running_s=20_000.0 - FIRST_S)
    assert pace.interval_s == FIRST_S
    assert not pace.is_due_now()
    assert not pace.is_due_after(10)
    clock.now_s += FIRST_S
    assert pace.is_due_now()
    assert save(pace, clock, 0.25, 3.0) == pytest.approx(0.25)
    assert pace.interval_s == pytest.approx(100.0, abs=0.02)
    clock.now_s += 96.0
    assert not pace.is_due_now()
    clock.now_s += 2.0
    assert pace.is_due_now()
    save(pace, clock, 0.25, 3.0)
    save(pace, clock, 50.0, 60.0)  # one bad day of the disk
    assert pace.interval_s == pytest.approx(100.0, abs=1.0)


def test_a_young_run_saves_often_and_what_it_pays_stays_little():
    """As much as with Young's interval and one failure in the run's whole length, at most."""
    clock = Clock()
    pace = SaveInterval(Every(auto=True), clock)
    begin_s, stall_s, num_saves = clock.now_s, 0.5, 0
    gaps = []
    while clock.now_s - begin_s < 3600.0:
        clock.now_s += max(0.1, (gap_s := pace.interval_s))
        save(pace, clock, stall_s, stall_s)
        gaps.append(gap_s)
        num_saves += 1
    assert gaps[1] <= 2.0 < 50.0 <= gaps[-1] <= 61.0
    assert num_saves * stall_s <= 1.1 * math.sqrt(2 * stall_s * 3600.0)


def test_what_earlier_starts_have_seen_counts_from_the_first_save_on():
    events = [
        {"event": "start", "time": "2026-01-01T10:00:00.000+00:00"},
        *(
            {
                "event": "saved",
                "time": f"2026-01-01T10:00:{number:02d}.000+00:00",
                "stall_s": 0.5,
                "seconds": 0.25 + number / 100,
                "next_in_s": 1.0,
            }
            for number in range(1, 8)
        ),
        {"event": "saved", "time": "2026-01-01T10:00:09.000+00:00", "stall_s": 9, "seconds": 9},
    ]
    assert saves_of(events) == [(0.5, pytest.approx(0.25 + n / 100)) for n in range(3, 8)]
    pace = SaveInterval.of_run(Every(auto=True), Clock(), events)
    # Nine seconds under way and one failure: half as long between two, Young's formula.
    assert pace.interval_s == pytest.approx(math.sqrt(2 * 0.5 * (9.0 + FIRST_S) / 2))


def test_a_failed_save_is_not_tried_again_at_once():
    clock = Clock()
    pace = SaveInterval(Every(seconds=30.0), clock)
    clock.now_s += 31.0
    assert pace.is_due_now()
    pace.begin()
    pace.training_continues()
    assert not pace.is_due_now()
    assert pace.interval_s == 30.0


def test_steps_know_no_clock():
    clock = Clock()
    pace = SaveInterval(Every(steps=5), clock)
    clock.now_s += 1e9
    assert (pace.interval_s, pace.is_due_now()) == (None, False)
    assert [step for step in range(1, 12) if pace.is_due_after(step)] == [5, 10]


def test_the_warning_says_what_is_at_stake():
    assert "no checkpoint: all its work" in failing_saves(3, None, 70)
    assert "step 40: the 30 steps since then" in failing_saves(4, 40, 70)
