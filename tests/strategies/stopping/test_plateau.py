import json
import math
from typing import Any

import pytest

from strategies.stopping.plateau import PlateauState, ReduceOnPlateau

NAN = math.nan


def factors(rule: ReduceOnPlateau, values: list[float]) -> list[float]:
    """Return the factor after each evaluation; the state goes through JSON each time."""
    state, found = PlateauState(), []
    for value in values:
        before = state.factor
        state, was_cut = rule.update(state, value)
        assert was_cut == (state.factor < before)
        state = PlateauState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
        found.append(state.factor)
    return found


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        ({"patience": 2}, [3, 2, 2, 2, 1], [1, 1, 1, 0.5, 0.5]),
        # Each cut needs its own patience.
        ({"patience": 2}, [1, 1, 1, 1, 1, 1], [1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"patience": 1, "cooldown": 2}, [1, 1, 1, 1, 1], [1, 0.5, 0.5, 0.5, 0.25]),
        ({"patience": 1, "floor": 0.3}, [1, 1, 1, 1], [1, 0.5, 0.3, 0.3]),
        ({"patience": 2}, [NAN, 3, NAN, NAN], [1, 1, 1, 0.5]),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.4, 2.4, 2.4], [1, 1, 1, 1, 0.5]),
        # Negative and getting worse is no improvement, however relative.
        (
            {"patience": 2, "min_delta": 0.2, "delta": "relative"},
            [-1.0, -0.9, -0.81],
            [1, 1, 0.5],
        ),
    ],
)
def test_when_it_cuts(rule: dict[str, Any], values: list[float], expected: list[float]) -> None:
    assert factors(ReduceOnPlateau("val/loss", factor=0.5, **rule), values) == expected


def test_another_metric_counts_anew_and_keeps_the_rate() -> None:
    saved = PlateauState(monitor="val/loss", mode="min", factor=0.25, anchor=1.0, bad=1)
    assert ReduceOnPlateau("val/loss").resumed(saved) == (saved, [])
    state, (sentence,) = ReduceOnPlateau("val/accuracy").resumed(saved)
    assert state == PlateauState(factor=0.25)
    assert "instead of val/loss" in sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"factor": 1.0}, "between 0 and 1"),
        ({"factor": NAN}, "between 0 and 1"),
        ({"patience": 0}, "at least 1"),
        ({"cooldown": -1}, "at least 0"),
        ({"floor": 1}, "it is a factor"),
        ({"mode": "max"}, "a lower loss is better"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ReduceOnPlateau("val/loss", **arguments)
