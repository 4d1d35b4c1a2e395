"""Where a run goes back to, and what it leaves out."""

from dataclasses import replace

import pytest

from launcher.rollback import MAX_ROLLBACKS, gone_back, newest_to_go_back_to
from launcher.run_state import RunState
from strategies import BatchPlan, Jump, Restored, StrategyError

PLAN = BatchPlan(num_samples=100, global_batch=10, micro_batch=5, epochs=9, seed=1)


def restored(step: int, jumps: tuple[Jump, ...] = ()) -> Restored:
    saved = RunState(step=step, jumps=jumps).to_json(replace(PLAN, jumps=jumps), None)
    return Restored(step=step, state=saved, created_by={}, damaged={}, objects={})


@pytest.mark.parametrize(
    ("state", "newest"),
    [
        (RunState(step=12, skipped_in_a_row=3), 9),
        (RunState(step=12, skipped_in_a_row=3, jumps=(Jump(at=5, length=2),)), 9),
        # Back at 9 already, and not one step could be applied since: it must be an older one.
        (RunState(step=12, skipped_in_a_row=3, jumps=(Jump(at=9, length=3),)), 8),
    ],
)
def test_where_to(state: RunState, newest: int) -> None:
    assert newest_to_go_back_to(state) == newest


def test_not_for_ever() -> None:
    jumps = tuple(Jump(at=n, length=1) for n in range(MAX_ROLLBACKS))
    with pytest.raises(StrategyError, match=f"gone back {MAX_ROLLBACKS} times already"):
        newest_to_go_back_to(RunState(step=90, skipped_in_a_row=3, jumps=jumps))


def test_the_data_since_the_checkpoint_is_left_out() -> None:
    state = gone_back(RunState(step=12, skipped_in_a_row=3), restored(8), PLAN, where="run")
    assert (state.step, state.skipped_in_a_row) == (8, 0)
    assert state.jumps == (Jump(at=8, length=4),)
    assert replace(PLAN, jumps=state.jumps).data_step(8) == 12


def test_a_later_jump_is_part_of_a_new_one_that_reaches_over_it() -> None:
    before = (Jump(at=2, length=1), Jump(at=8, length=4))
    plan = replace(PLAN, jumps=before)
    state = RunState(step=11, skipped_in_a_row=3, jumps=before)
    state = gone_back(state, restored(5, before[:1]), plan, where="run")
    assert state.jumps == (Jump(at=2, length=1), Jump(at=5, length=10))
    # The next step sees what the step after the trouble would have seen.
    assert replace(PLAN, jumps=state.jumps).data_step(5) == plan.data_step(11) == 16


def test_jumps_are_in_the_checkpoint() -> None:
    jumps = (Jump(at=2, length=1),)
    state = RunState().restored(restored(5, jumps).state, PLAN, where="run")
    assert state.jumps == jumps
    older = {k: v for k, v in restored(5).state.items() if k != "jumps"}
    assert RunState().restored(older, PLAN, where="run").jumps == ()
