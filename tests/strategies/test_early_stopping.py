import json
import math
from typing import Any

import pytest

from strategies.early_stopping import EarlyStopping, EarlyStoppingState

NAN, INF = math.nan, math.inf


def follow(rule: EarlyStopping, values: list[float]) -> tuple[int | None, list[bool], Any]:
    """Return (0-based evaluation that stopped it, which were best, last state)."""
    state, bests = EarlyStoppingState(), []
    for number, value in enumerate(values):
        state, is_best = rule.update(state, value, step=10 * (number + 1))
        bests.append(is_best)
        if state.reason is not None:
            return number, bests, state
    return None, bests, state


@pytest.mark.parametrize(
    ("rule", "values", "stops_at"),
    [
        ({"patience": 2}, [3, 2, 2, 2, 2], 3),
        ({"patience": 2}, [3, 2, 2.5, 1.9, 2, 2], 5),
        ({"patience": 1}, [1, 1], 1),
        # Small gains add up against the anchor, which only real improvements move.
        ({"patience": 3, "min_delta": 0.1}, [1 - 0.04 * i for i in range(12)], None),
        ({"patience": 2, "min_delta": 0.5}, [3.0, 2.5, 2.0, 1.9, 1.8], 4),
        # A gain of exactly min_delta is none.
        ({"patience": 2, "min_delta": 0.5}, [2.0, 1.5, 1.5], 2),
        ({"patience": 2}, [NAN, 3, 2, 1], None),
        ({"patience": 2}, [3, NAN, 2, NAN, 1], None),
        ({"patience": 2}, [3, NAN, NAN], 2),
        ({"patience": 2}, [NAN, NAN], 1),
        ({"patience": 2}, [INF, 3, 2], None),
        ({"patience": 2}, [-INF, 3, 2, 1], None),
        ({"patience": 2, "min_delta": 0.1}, [-1.0, -0.9, -0.8], 2),
        ({"patience": 2, "mode": "max"}, [0.1, 0.2, 0.2, 0.1], 3),
        ({"patience": 2, "mode": "max", "min_delta": 0.1}, [-1.0, -0.8, -0.75, -0.72], 3),
    ],
)
def test_where_it_stops(rule: dict[str, Any], values: list[float], stops_at: int | None) -> None:
    assert follow(EarlyStopping("val/loss", **rule), values)[0] == stops_at


def test_the_best_is_really_the_best_and_never_nan() -> None:
    rule = EarlyStopping("val/loss", patience=4, min_delta=0.5)
    _, bests, state = follow(rule, [NAN, 2.0, 1.9, NAN, 1.95])
    assert bests == [False, True, True, False, False]
    assert (state.best, state.best_step, state.anchor) == (1.9, 30, 2.0)


def test_going_on_from_json_is_going_on() -> None:
    rule = EarlyStopping("val/loss", patience=3)
    values = [3.0, 2.0, 2.5, 2.5, 1.0, 2.0, 2.0, 2.0]
    for cut in range(len(values)):
        state = EarlyStoppingState()
        for number, value in enumerate(values):
            if number == cut:
                state = EarlyStoppingState.from_json(json.loads(json.dumps(state.to_json())))
            state, _ = rule.update(state, value, step=number)
        assert state.reason is not None
        assert "did not improve in 3 evaluations" in state.reason
        assert (state.best, state.best_step) == (1.0, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": "low"}, "choose from max, min"),
        ({"patience": 0}, "at least 1"),
        ({"min_delta": -1}, "not be negative"),
        ({"min_delta": NAN}, "not be negative"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EarlyStopping("val/loss", **arguments)
