"""Where a run goes back to, and what it leaves out."""

import math
from dataclasses import replace
from typing import Any

import pytest

from launcher.training.loop.evaluation_rules import EvaluationRules
from launcher.training.loop.rollback import (
    MAX_ROLLBACKS,
    bad_evaluation,
    gone_back,
    newest_to_go_back_to,
    skipped_steps,
)
from launcher.training.run_state import RunState
from strategies import BatchPlan, EarlyStopping, Ending, Jump, Restored, StrategyError, decide

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
    assert newest_to_go_back_to(state, skipped_steps(state)) == newest


def measured(
    *values: float, jumps: tuple[Jump, ...] = (), **rule: Any
) -> tuple[EvaluationRules, RunState]:
    """A run that is evaluated every 5 steps."""
    judge = EvaluationRules(
        stop=EarlyStopping("val/loss", on_nonfinite="rollback", **rule), plateau=None
    )
    state = RunState(jumps=jumps)
    for number, value in enumerate(values):
        state, _, _ = judge.after(replace(state, step=5 * (number + 1)), {"val/loss": value})
    return judge, state


@pytest.mark.parametrize(
    ("values", "rule", "jumps", "newest"),
    [
        ((3.0, 2.0, math.nan), {}, (), 10),
        ((3.0, 2.0, math.inf), {}, (), 10),
        # Worse than the bound too; that it is not finite comes first.
        ((3.0, math.inf), {"diverge": 9.0}, (), 5),
        # Back at the very checkpoint already: an older one.
        ((3.0, 2.0, math.nan), {}, (Jump(at=10, length=5),), 9),
        ((3.0, 2.0, math.nan), {}, (Jump(at=8, length=5),), 10),
        # The first ones decide nothing.
        ((math.nan, 3.0, math.nan), {"start_after": 1}, (), 10),
    ],
)
def test_where_to_after_an_evaluation_that_is_not_finite(
    values: tuple[float, ...], rule: dict[str, Any], jumps: tuple[Jump, ...], newest: int
) -> None:
    judge, state = measured(*values, jumps=jumps, **rule)
    assert judge.asks_to_go_back(state)
    assert newest_to_go_back_to(state, bad_evaluation(state)) == newest
    decision = decide(state.progress(PLAN, goes_back=True), None)
    assert (decision.rollback, decision.save, decision.ending) == (True, False, None)


@pytest.mark.parametrize(
    ("values", "rule"),
    [((3.0, 2.0), {}), ((3.0, math.nan, 2.0), {}), ((math.nan,), {"start_after": 1}), ((), {})],
)
def test_when_it_does_not_go_back(values: tuple[float, ...], rule: dict[str, Any]) -> None:
    judge, state = measured(*values, **rule)
    assert not judge.asks_to_go_back(state)


@pytest.mark.parametrize("on_nonfinite", ["count", "stop"])
def test_only_where_it_was_asked_for(on_nonfinite: Any) -> None:
    rule = EarlyStopping("val/loss", on_nonfinite=on_nonfinite)
    judge = EvaluationRules(stop=rule, plateau=None)
    state, _, _ = judge.after(RunState(step=5), {"val/loss": math.nan})
    assert not judge.asks_to_go_back(state)
    assert (state.stopper.reason is not None) == (on_nonfinite == "stop")
    assert decide(state.progress(PLAN), None).ending == (
        Ending.EARLY_STOPPED if on_nonfinite == "stop" else None
    )


def test_a_run_that_was_never_well_is_not_gone_back_in() -> None:
    _, state = measured(math.nan)
    words = "val/loss is nan at step 5. No earlier evaluation was finite"
    with pytest.raises(StrategyError, match=words):
        newest_to_go_back_to(state, bad_evaluation(state))


def test_that_it_must_go_back_survives_a_preemption() -> None:
    judge, state = measured(3.0, math.nan)
    again = RunState().restored(state.to_json(PLAN, Ending.PREEMPTED), PLAN, where="run")
    again, _ = judge.resumed(again)
    assert judge.asks_to_go_back(again)
    assert newest_to_go_back_to(again, bad_evaluation(again)) == 5


def test_not_for_ever() -> None:
    jumps = tuple(Jump(at=n, length=1) for n in range(MAX_ROLLBACKS))
    state = RunState(step=90, skipped_in_a_row=3, jumps=jumps)
    with pytest.raises(StrategyError, match=f"rolled back {MAX_ROLLBACKS} times already"):
        newest_to_go_back_to(state, skipped_steps(state))


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
