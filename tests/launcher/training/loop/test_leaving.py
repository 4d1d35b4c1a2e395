"""Where a rank stands that ends alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from launcher.training.loop.leaving import standing


def step(*, has_outcome: bool, is_updating: bool = False) -> Any:
    outcome = object() if has_outcome else None
    return SimpleNamespace(outcome=outcome, is_updating=is_updating, place=("step", 3))


@pytest.mark.parametrize(
    ("open_step", "owed", "newest", "done", "can_be_saved"),
    [
        pytest.param(None, None, None, 3, True, id="at a boundary"),
        pytest.param(None, None, 3, 3, False, id="at a boundary that is saved"),
        pytest.param(step(has_outcome=False), None, 2, 3, True, id="among micro-batches"),
        pytest.param(step(has_outcome=False), None, 3, 3, False, id="nothing new"),
        pytest.param(step(has_outcome=True), None, 3, 4, True, id="after the update"),
        pytest.param(step(has_outcome=True), {}, 3, 3, False, id="an owed evaluation is no step"),
        pytest.param(
            step(has_outcome=False, is_updating=True), None, 2, 3, False, id="during the update"
        ),
    ],
)
def test_what_can_be_saved(
    open_step: Any, owed: Any, newest: int | None, done: int, can_be_saved: bool
) -> None:
    state: Any = SimpleNamespace(step=3, owed_evaluation=owed)
    found = standing(open_step, state, newest)
    assert (found.step, found.can_be_saved) == (done, can_be_saved)
    assert found.newest_step == newest
    assert found.place == (("boundary",) if open_step is None else ("step", 3))
