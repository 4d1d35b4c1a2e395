"""Leaving in time: a save at the next boundary, or the newest one that is on disk."""

from dataclasses import replace

import pytest

from strategies.boundary.decision import Decision, Ending, Progress, decide
from strategies.boundary.notice_rounds import AgreedNotice
from strategies.boundary.time_left import RESERVE_S, UNKNOWN_SAVE_S, TimeLeft

ASKED = AgreedNotice(asked=1, time=None)
QUIET = replace(ASKED, asked=0)
UNDER_WAY = Progress(step=5, total_steps=10, save_due=False, early_stop_reason=None, newest_step=3)


@pytest.mark.parametrize(
    ("time", "fits"),
    [
        (TimeLeft(left_s=0.0), True),  # nothing was measured: better to try
        (TimeLeft(left_s=10.0, save_s=8.0), True),
        (TimeLeft(left_s=10.0, save_s=10.0, step_s=2.0), True),  # it may just fit: it is tried
        (TimeLeft(left_s=10.0, save_s=10.1), False),
        (TimeLeft(left_s=0.0, save_s=0.5), False),
    ],
)
def test_leaving_saves_only_what_can_be_finished(time: TimeLeft, fits: bool) -> None:
    assert time.fits_a_save is fits
    decision = decide(UNDER_WAY, None, replace(ASKED, time=time))
    assert (decision.ending, decision.save) == (Ending.PREEMPTED, fits)
    # With nothing on disk a save that may fail loses less than none.
    assert decide(replace(UNDER_WAY, newest_step=None), None, replace(ASKED, time=time)).save


def test_without_a_known_limit_leaving_saves() -> None:
    assert decide(UNDER_WAY, None, ASKED) == Decision(
        save=True, ending=Ending.PREEMPTED, reason="preemption notice"
    )


@pytest.mark.parametrize(
    ("time", "leaves"),
    [
        (TimeLeft(left_s=1000.0, save_s=10.0, step_s=1.0), False),
        (TimeLeft(left_s=21.0, save_s=10.0, step_s=1.0), False),
        (TimeLeft(left_s=19.0, save_s=10.0, step_s=1.0), True),
        (TimeLeft(left_s=100.0, save_s=10.0, step_s=60.0), True),
        (TimeLeft(left_s=1.25 * UNKNOWN_SAVE_S + RESERVE_S - 1), True),
        (TimeLeft(left_s=1.25 * UNKNOWN_SAVE_S + RESERVE_S + 1), False),
    ],
)
def test_the_time_limit_needs_no_warning(time: TimeLeft, leaves: bool) -> None:
    decision = decide(UNDER_WAY, None, replace(QUIET, time=time))
    assert (decision.ending is Ending.PREEMPTED) is leaves
    if leaves:
        assert "the time limit comes in" in decision.reason


def test_a_run_that_is_done_does_not_leave_for_the_time_limit() -> None:
    late = replace(QUIET, time=TimeLeft(left_s=1.0, save_s=10.0))
    assert decide(replace(UNDER_WAY, step=10), None, late).ending is Ending.COMPLETED


def test_a_save_in_flight_is_finished_before_leaving() -> None:
    saving = replace(UNDER_WAY, saving_since=4)
    decision = decide(saving, None, replace(ASKED, time=TimeLeft(left_s=1.0, save_s=10.0)))
    assert decision.conclude
    assert not decision.save


def test_steps_that_are_lost_for_want_of_time_are_said() -> None:
    decision = decide(UNDER_WAY, None, replace(ASKED, time=TimeLeft(left_s=1.0, save_s=10.0)))
    assert "1 s are too short for a save, which takes 10.0 s" in decision.reason
    assert "the steps since step 3 are lost" in decision.reason
