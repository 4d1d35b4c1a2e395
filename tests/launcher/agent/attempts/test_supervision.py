"""What to do next, as a table."""

import pytest

from launcher.agent.attempts.supervision import Action, Bounds, Situation, next_step

BOUNDS = Bounds(grace_s=30, terminate_s=10, leave_s=60, abandon_s=5)
NO_GRACE = Bounds(terminate_s=10, leave_s=60, abandon_s=5)


def at(now, *, num_running=2, **seen):
    return Situation(now=now, num_running=num_running, **seen)


@pytest.mark.parametrize(
    ("seen", "step"),
    [
        (at(0), Action.WAIT),
        (at(0, num_running=0), Action.DONE),
        (at(9, num_running=0, failed_at=1, kill_now=True), Action.DONE),
        (at(5, warned_at=5), Action.WARN),
        (at(34, warned_at=5, told=True), Action.WAIT),
        (at(35, warned_at=5, told=True), Action.KILL),
        (at(35, warned_at=5, told=True, killed_at=35), Action.WAIT),
        (at(40, warned_at=5, told=True, killed_at=35), Action.ABANDON),
        (at(5, failed_at=5), Action.TERMINATE),
        (at(5, failed_at=5, warned_at=5), Action.TERMINATE),
        (at(14, failed_at=5, terminated_at=5), Action.WAIT),
        (at(15, failed_at=5, terminated_at=5), Action.KILL),
        (at(14, failed_at=5, terminated_at=5, warned_at=7), Action.WAIT),
        (at(9, lost_at=9), Action.TERMINATE),
        (at(9, joining_at=9), Action.REGROUP),
        (at(99, joining_at=9, called=True), Action.WAIT),
        (at(99, joining_at=9, warned_at=99), Action.WARN),
        (at(99, joining_at=9, called=True, warned_at=99), Action.WARN),
        (at(99, joining_at=9, warned_at=98, told=True), Action.WAIT),
        (at(9, joining_at=9, failed_at=9), Action.TERMINATE),
        (at(70, joining_at=5, called=True, left_at=10), Action.TERMINATE),
        (at(10, lost_at=7, terminated_at=8), Action.WAIT),
        (at(11, lost_at=7, terminated_at=8), Action.KILL),
        (at(11, lost_at=10, failed_at=1, terminated_at=8), Action.KILL),
        (at(9, hung_at=9), Action.ASK),
        (at(9, hung_at=9, asked=True), Action.KILL),
        (at(9, hung_at=9, kill_now=True), Action.KILL),
        (at(9, hung_at=9, asked=True, killed_at=9), Action.WAIT),
        (at(64, left_at=5), Action.WAIT),
        (at(65, left_at=5), Action.TERMINATE),
        (at(75, left_at=5, terminated_at=65), Action.KILL),
        (at(5, early_at=5), Action.TERMINATE),
        (at(5, early_at=5, warned_at=5), Action.TERMINATE),
        (at(14, early_at=5, terminated_at=5), Action.WAIT),
        (at(15, early_at=5, terminated_at=5), Action.KILL),
        (at(20, left_at=15, warned_at=10, told=True), Action.WAIT),
        (at(6, warned_at=5, told=True, kill_now=True), Action.KILL),
        (at(6, warned_at=5, told=True, kill_now=True, killed_at=6), Action.WAIT),
    ],
)
def test_next_step(seen, step):
    assert next_step(seen, BOUNDS) is step


def test_a_warning_has_no_bound_of_its_own():
    assert next_step(at(1e9, warned_at=5, told=True), NO_GRACE) is Action.WAIT


@pytest.mark.parametrize(
    "seen",
    [
        {"failed_at": 1.0},
        {"lost_at": 1.0},
        {"left_at": 1.0},
        {"early_at": 1.0},
        {"kill_now": True},
        {"hung_at": 1.0, "asked": True},
    ],
)
def test_everything_else_ends_in_bounded_time(seen):
    now, marks = 0.0, dict(seen)
    for _ in range(1000):
        step = next_step(at(now, **marks), NO_GRACE)
        if step is Action.ABANDON:
            break
        if step is Action.TERMINATE:
            marks["terminated_at"] = now
        if step is Action.KILL:
            marks["killed_at"] = now
        now += 0.5
    assert now < 90
