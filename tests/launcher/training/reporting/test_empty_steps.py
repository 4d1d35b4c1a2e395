"""Steps in which nothing counts: when they are told, and what a run keeps of them."""

import math

import pytest

from launcher.training.reporting.empty_steps import (
    LOOKED_AT,
    empty_steps_sentence,
    refuse_if_nothing_ever_counts,
)
from launcher.training.run_state import RunState
from strategies import ConfigError, LossScale, StepOutcome

APPLIED = StepOutcome(grad_norm=1.0, applied=True)
NOT_FINITE = StepOutcome(grad_norm=math.inf, applied=False)
EMPTY = StepOutcome(grad_norm=math.nan, applied=False, is_empty=True)


def test_of_many_ever_fewer_are_told() -> None:
    assert [n for n in range(1, 20) if empty_steps_sentence(n, n + 5)] == [1, 2, 4, 8, 16]
    first, fourth = empty_steps_sentence(1, 7), empty_steps_sentence(4, 90)
    assert first is not None
    assert first.startswith("step 7: nothing counted on any rank")
    assert first.endswith("the first such step.")
    assert fourth is not None
    assert fourth.endswith("4 such steps so far.")


def test_a_run_in_which_nothing_ever_counts_is_a_mistake() -> None:
    for empty, step in ((LOOKED_AT, LOOKED_AT + 1), (LOOKED_AT - 1, LOOKED_AT - 1), (0, LOOKED_AT)):
        refuse_if_nothing_ever_counts(empty, step)
    with pytest.raises(ConfigError, match=r"in the first 10 steps nothing counted"):
        refuse_if_nothing_ever_counts(LOOKED_AT, LOOKED_AT)


@pytest.mark.parametrize(
    ("outcomes", "in_a_row", "empty", "scale"),
    [
        ((APPLIED,), 0, 0, 2.0**16),
        ((EMPTY, EMPTY), 0, 2, 2.0**16),
        ((NOT_FINITE,), 1, 0, 2.0**15),
        # What a run goes back behind is counted from the first step that was not applied.
        ((NOT_FINITE, EMPTY, NOT_FINITE), 3, 1, 2.0**14),
        ((NOT_FINITE, EMPTY, APPLIED), 0, 1, 2.0**15),
    ],
)
def test_an_empty_step_is_counted_and_is_no_overflow(
    outcomes: tuple[StepOutcome, ...], in_a_row: int, empty: int, scale: float
) -> None:
    state = RunState(scale=LossScale.for_fp16())
    for outcome in outcomes:
        state = state.after(outcome)
    assert state.step == len(outcomes)
    assert (state.skipped_in_a_row, state.empty_steps) == (in_a_row, empty)
    assert state.scale.scale == scale
