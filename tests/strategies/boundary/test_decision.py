from dataclasses import replace

import pytest

from strategies.boundary.boundary import Agreed
from strategies.boundary.decision import Decision, Ending, Progress, decide
from strategies.boundary.notice_rounds import AgreedNotice

QUIET = Agreed(step=4, preempt=0, stop=0, save=0, skipped=0, settled=0, loss=1.0)
UNDER_WAY = Progress(step=5, total_steps=10, save_due=False, early_stop_reason=None)
AT_END = replace(UNDER_WAY, step=10)
WORN_OUT = replace(UNDER_WAY, early_stop_reason="no gain")


@pytest.mark.parametrize(
    ("progress", "agreed", "ending"),
    [
        (UNDER_WAY, None, None),
        (UNDER_WAY, QUIET, None),
        (UNDER_WAY, replace(QUIET, preempt=1), Ending.PREEMPTED),
        (UNDER_WAY, replace(QUIET, stop=2), Ending.STOPPED),
        (WORN_OUT, QUIET, Ending.EARLY_STOPPED),
        (WORN_OUT, None, Ending.EARLY_STOPPED),
        (AT_END, QUIET, Ending.COMPLETED),
        (replace(AT_END, step=11), QUIET, Ending.COMPLETED),
        # Several at once: the machines that go away first, then the person, then the rules.
        (replace(WORN_OUT, step=10), replace(QUIET, preempt=3, stop=1), Ending.PREEMPTED),
        (replace(WORN_OUT, step=10), replace(QUIET, stop=1), Ending.STOPPED),
        (replace(WORN_OUT, step=10), QUIET, Ending.EARLY_STOPPED),
    ],
)
def test_endings(progress: Progress, agreed: Agreed | None, ending: Ending | None) -> None:
    decision = decide(progress, agreed)
    assert decision.ending == ending
    assert decision.save == (ending is not None)


def test_a_save_is_due_by_steps_or_by_the_coordinators_clock() -> None:
    assert decide(UNDER_WAY, QUIET) == Decision(save=False)
    assert decide(replace(UNDER_WAY, save_due=True), QUIET) == Decision(save=True)
    assert decide(UNDER_WAY, replace(QUIET, save=1)) == Decision(save=True)


STUCK = replace(UNDER_WAY, is_stuck=True)


@pytest.mark.parametrize(
    ("progress", "agreed", "rollback"),
    [
        (STUCK, QUIET, True),
        (replace(STUCK, step=10, early_stop_reason="no gain"), QUIET, True),
        (replace(STUCK, saving_since=3), QUIET, True),
        # Those who leave go back when they are here again.
        (STUCK, replace(QUIET, preempt=1), False),
        (STUCK, replace(QUIET, stop=1), False),
    ],
)
def test_a_run_that_is_stuck_goes_back(progress, agreed, rollback: bool) -> None:
    decision = decide(progress, agreed)
    assert decision.rollback == rollback
    assert decision.save == (not rollback)
    assert decision.conclude == (progress.saving_since is not None)


def test_only_a_preempted_run_goes_on() -> None:
    assert [e for e in Ending if not e.is_final] == [Ending.PREEMPTED]


SAVING = replace(UNDER_WAY, step=5, saving_since=3, world_size=2)


@pytest.mark.parametrize(
    ("progress", "agreed", "decision"),
    [
        (SAVING, None, Decision(save=False)),
        (SAVING, QUIET, Decision(save=False)),
        (SAVING, replace(QUIET, settled=1), Decision(save=False)),
        (SAVING, replace(QUIET, settled=2), Decision(save=False, proceed=True)),
        # Reported before this part of the save began: it speaks of the one before.
        (SAVING, replace(QUIET, settled=2, step=3), Decision(save=False)),
        (replace(SAVING, saving_since=None), replace(QUIET, settled=2), Decision(save=False)),
        # One at a time: the next save waits for this one, and so does leaving.
        (replace(SAVING, save_due=True), QUIET, Decision(save=True, conclude=True)),
        (
            SAVING,
            replace(QUIET, preempt=1),
            Decision(save=True, conclude=True, ending=Ending.PREEMPTED, reason="preemption notice"),
        ),
    ],
)
def test_a_save_in_flight_is_concluded_by_agreement(progress, agreed, decision) -> None:
    assert decide(progress, agreed) == decision


ASKED = AgreedNotice(asked=2, time=None)
OWING = replace(UNDER_WAY, owes_evaluation=True, newest_step=3)


@pytest.mark.parametrize(
    ("progress", "notice", "save", "words"),
    [
        (UNDER_WAY, ASKED, True, "preemption notice"),
        (replace(AT_END, early_stop_reason="no gain"), ASKED, True, "preemption notice"),
        # At the first boundary nothing was said at a former one.
        (OWING, ASKED, True, "preemption notice in an evaluation, which will be repeated"),
        (
            OWING,
            AgreedNotice(asked=0, time=None),
            True,
            "the time limit comes before the end of",
        ),
        (replace(OWING, step=10), ASKED, True, "preemption notice in an evaluation"),
        (
            replace(OWING, newest_step=5, is_saved=True),
            ASKED,
            False,
            "preemption notice in an eval",
        ),
        (replace(UNDER_WAY, newest_step=5, is_saved=True), ASKED, False, "preemption notice"),
    ],
)
def test_a_notice_that_came_in_the_step_is_acted_on_at_its_end(
    progress, notice, save, words
) -> None:
    decision = decide(progress, None, notice)
    assert (decision.ending, decision.save) == (Ending.PREEMPTED, save)
    assert words in decision.reason
