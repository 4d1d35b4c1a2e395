from dataclasses import replace

import pytest

from strategies.boundary import Agreed
from strategies.decision import Decision, Ending, Progress, decide

QUIET = Agreed(step=4, preempt=0, stop=0, save=0, skipped=0, loss=1.0)
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


def test_only_a_preempted_run_goes_on() -> None:
    assert [e for e in Ending if not e.is_final] == [Ending.PREEMPTED]
