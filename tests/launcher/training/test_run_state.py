"""What a checkpoint says of a run, against what the script says now."""

from pathlib import Path

import pytest

from launcher.training.run_state import RunState
from strategies import BatchPlan, ConfigError

PLAN = BatchPlan(num_samples=10, global_batch=4, micro_batch=2, epochs=3, seed=1)


def test_the_kind_of_start_cannot_change_within_a_run() -> None:
    saved = RunState(step=2, init="by-name").to_json(PLAN, None)
    assert RunState(init="by-name").restored(saved, PLAN, where=Path("run")).step == 2
    with pytest.raises(ConfigError, match=r'began with init="by-name".*now has init="as-built"'):
        RunState().restored(saved, PLAN, where=Path("run"))


def test_checkpoints_from_before_there_was_a_choice_are_as_built() -> None:
    saved = RunState(step=2).to_json(PLAN, None)
    del saved["random"]["init"]  # type: ignore[union-attr,arg-type,call-overload]
    assert RunState().restored(saved, PLAN, where=Path("run")).init == "as-built"
