import json
import math
from pathlib import Path
from typing import Any

import pytest

from strategies.stopping.early_stopping import EarlyStopping, EarlyStoppingState

NAN, INF = math.nan, math.inf
CASES = json.loads(Path(__file__).with_name("early_stopping_cases.json").read_text())
RIVALS = json.loads(Path(__file__).with_name("early_stopping_rivals.json").read_text())


def follow(
    rule: EarlyStopping, values: list[float], cuts: tuple[int, ...] = ()
) -> tuple[int | None, list[bool], EarlyStoppingState]:
    """Return (0-based evaluation that stopped it, which were best, last state)."""
    state, bests = EarlyStoppingState(), []
    for number, value in enumerate(values):
        step = 10 * (number + 1)
        state, is_best = rule.update(state, value, step=step, rate_was_cut=number in cuts)
        bests.append(is_best)
        if state.reason is not None:
            return number, bests, state
    return None, bests, state


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_cases_that_other_libraries_were_asked_too(case: dict[str, Any]) -> None:
    if case["ours"] == "refused":
        with pytest.raises(ValueError, match="at least 1"):
            EarlyStopping("val/loss", **case["arguments"])
        return
    mode = case["arguments"].get("mode", "min")
    rule = EarlyStopping("val/score", **{**case["arguments"], "mode": mode})
    assert follow(rule, [float(value) for value in case["values"]])[0] == case["ours"]


OURS = {case["name"]: case["ours"] for case in CASES}


@pytest.mark.parametrize(
    ("name", "like_ours", "unlike"),
    [
        ("plateau", {"keras", "lightning", "hugging face", "skorch"}, {"composer": 4}),
        ("plateau", {"ignite"}, {"torch plateau": 4}),
        (
            "every gain is below the margin, their sum is not",
            {"keras", "lightning", "composer", "skorch", "ignite cumulative", "torch plateau"},
            {"hugging face": 3, "ignite": 3},
        ),
        ("nan first", {"hugging face", "skorch"}, {"keras": 2, "lightning": 0, "composer": 3}),
        ("nan to the end", {"keras", "hugging face", "skorch"}, {"lightning": 1, "ignite": None}),
        ("minus inf first", set(), {"keras": 2, "skorch": 2, "composer": 3}),
        (
            "negative and getting worse, relative",
            set(),
            {"skorch": None, "ignite": None, "torch plateau": None},
        ),
    ],
)
def test_the_others_as_recorded(
    name: str, like_ours: set[str], unlike: dict[str, int | None]
) -> None:
    """What docs/early_stopping.md says of them is what was recorded, with these versions."""
    stops = RIVALS["stops"][name]
    assert {rival: stops[rival] for rival in like_ours} == dict.fromkeys(like_ours, OURS[name])
    assert {rival: stops[rival] for rival in unlike} == unlike
    assert all(there != OURS[name] for there in unlike.values())


def test_every_case_was_recorded_from_named_versions() -> None:
    assert set(RIVALS["stops"]) == set(OURS)
    assert set(RIVALS["versions"]) == {
        *("keras", "lightning", "transformers", "mosaicml", "skorch", "pytorch-ignite", "torch")
    }


@pytest.mark.parametrize(
    ("rule", "values", "stops_at", "words"),
    [
        # The first value must beat the baseline; afterwards it is forgotten.
        ({"patience": 2, "baseline": 1.0}, [3, 2, 1], 1, "did not improve in 2"),
        ({"patience": 2, "baseline": 1.0}, [3, 0.9, 0.95, 0.96], 3, "did not improve in 2"),
        (
            {"patience": 2, "baseline": 1.0, "min_delta": 0.2},
            [0.9, 0.85],
            1,
            "did not improve by more than 0.2 in 2",
        ),
        (
            {"patience": 1, "min_delta": 0.05, "delta": "relative"},
            [1.0, 0.99],
            1,
            "did not improve by more than 5 % in 1",
        ),
        ({"patience": 1, "start_after": 3}, [1, 2, 2, 2], 3, "in 1 evaluations"),
        ({"patience": 2, "start_after": 3}, [1, 2, 2, 2, 0.5, 1, 1], 6, "did not improve in 2"),
        ({"start_after": 2, "diverge": 10.0}, [50, 20, 3, 11], 3, "11 after 4 evaluations, worse"),
        ({"diverge": 10.0}, [3, 10, 10.5], 2, "worse than the bound 10"),
        ({"diverge": 10.0}, [3, INF], 1, "worse than the bound 10"),
        ({"diverge": 10.0, "patience": 3}, [3, NAN, 2], None, None),
        ({"target": 0.5}, [3, 0.6, 0.5], 2, "reached 0.5"),
        ({"target": 0.5, "start_after": 9}, [3, 0.4], 1, "reached 0.4"),
        ({"target": 0.5}, [-INF, 3], None, None),
        ({"on_nonfinite": "stop"}, [3, NAN], 1, "is nan after 2"),
        ({"on_nonfinite": "stop", "start_after": 2}, [NAN, INF, 1, -INF], 3, "is -inf"),
        ({"patience": 2, "min_delta": 0.1, "delta": "relative"}, [10, 9.5, 9.1], 2, "improve"),
        ({"patience": 2, "min_delta": 0.1, "delta": "relative"}, [10, 8.9, 8.1, 7.9], None, None),
        # A margin around zero: nothing is small enough beside a reference of 0.
        ({"patience": 2, "min_delta": 0.1, "delta": "relative"}, [0, -0.001, -0.01], None, None),
    ],
)
def test_where_it_stops(
    rule: dict[str, Any], values: list[float], stops_at: int | None, words: str | None
) -> None:
    number, _, state = follow(EarlyStopping("val/loss", **rule), values)
    assert number == stops_at
    assert (words is None) == (state.reason is None)
    assert words is None or words in str(state.reason)


@pytest.mark.parametrize(
    ("rule", "values", "stops_at"),
    [
        ({"target": 0.9}, [0.5, 0.9], 1),
        ({"diverge": 0.2}, [0.5, 0.2, 0.1], 2),
        ({"baseline": 0.5, "patience": 2}, [0.1, 0.5], 1),
    ],
)
def test_thresholds_follow_the_metrics_direction(
    rule: dict[str, Any], values: list[float], stops_at: int
) -> None:
    assert follow(EarlyStopping("val/accuracy", **rule), values)[0] == stops_at


@pytest.mark.parametrize(
    ("grace", "cuts", "stops_at"),
    [
        (0, (2,), 3),
        (2, (), 3),
        # Not counted: the evaluation that cut, and the two after it.
        (2, (2,), 6),
        # A second cut while grace lasts begins it anew.
        (2, (2, 4), 8),
    ],
)
def test_a_cut_of_the_rate_gives_grace(grace: int, cuts: tuple[int, ...], stops_at: int) -> None:
    rule = EarlyStopping("val/loss", patience=3, grace_after_lr_cut=grace)
    assert follow(rule, [1.0] + [2.0] * 12, cuts)[0] == stops_at


def test_the_best_is_really_the_best_and_never_nan() -> None:
    rule = EarlyStopping("val/loss", patience=4, min_delta=0.5)
    _, bests, state = follow(rule, [NAN, 2.0, 1.9, NAN, 1.95])
    assert bests == [False, True, True, False, False]
    assert (state.best, state.best_step, state.anchor) == (1.9, 30, 2.0)


def test_going_on_from_json_is_going_on() -> None:
    rule = EarlyStopping("val/loss", patience=3, start_after=1, grace_after_lr_cut=1)
    values = [3.0, 2.0, NAN, 2.5, 1.0, INF, 2.0, 2.0, 2.0]
    reasons = set()
    for cut in range(len(values)):
        state = EarlyStoppingState()
        for number, value in enumerate(values):
            if number == cut:
                text = json.dumps(state.to_json(), allow_nan=False)
                state = EarlyStoppingState.from_json(json.loads(text))
            state, _ = rule.update(state, value, step=number, rate_was_cut=number == 5)
        assert (state.best, state.best_step) == (1.0, 4)
        reasons.add((state.reason, state.bad))
    assert reasons == {(None, 2)}


STOPPED = follow(EarlyStopping("val/loss", patience=2), [3.0, 2.0, 2.5, 2.5])[2]


def test_a_run_that_has_stopped_stays_stopped() -> None:
    assert STOPPED.reason is not None
    for rule in ({"patience": 2}, {"patience": 1}, {"patience": 2, "min_delta": 0.3}):
        assert EarlyStopping("val/loss", **rule).resumed(STOPPED) == (STOPPED, [])


def test_a_stop_that_cannot_be_judged_anew_stays() -> None:
    """A state of before the last value was kept must not make a finished run train on."""
    old = EarlyStoppingState.from_json({"anchor": 2.0, "best": 2.0, "bad": 2, "reason": "worn out"})
    assert EarlyStopping("val/loss", patience=9).resumed(old) == (old, [])


def test_new_arguments_win_and_it_is_said() -> None:
    state, (sentence,) = EarlyStopping("val/loss", patience=3).resumed(STOPPED)
    assert state.reason is None
    assert (state.best, state.bad) == (2.0, 2)
    assert "did not improve in 2" in sentence
    assert "continues" in sentence
    assert EarlyStopping("val/loss", patience=3).update(state, 2.5, step=50)[0].reason is not None


def test_a_target_that_is_taken_away_lets_the_run_go_on() -> None:
    done = follow(EarlyStopping("val/loss", target=1.0), [3.0, 0.9])[2]
    assert EarlyStopping("val/loss", target=1.0).resumed(done)[0] == done
    assert EarlyStopping("val/loss", target=0.5).resumed(done)[0].reason is None
    diverged = follow(EarlyStopping("val/loss", on_nonfinite="stop"), [3.0, NAN])[2]
    again = EarlyStoppingState.from_json(json.loads(json.dumps(diverged.to_json())))
    assert EarlyStopping("val/loss", on_nonfinite="stop").resumed(again)[1] == []
    assert EarlyStopping("val/loss").resumed(again)[0].reason is None


def test_another_metric_starts_anew() -> None:
    state, (sentence,) = EarlyStopping("val/accuracy").resumed(STOPPED)
    assert state == EarlyStoppingState()
    assert "val/accuracy (max) instead of val/loss (min)" in sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": "low"}, "choose from max, min"),
        ({"mode": "max"}, "a lower loss is better"),
        ({"patience": 0}, "at least 1"),
        ({"patience": 2.5}, "whole number"),
        ({"patience": True}, "whole number"),
        ({"start_after": -1}, "at least 0"),
        ({"grace_after_lr_cut": -1}, "at least 0"),
        ({"min_delta": -1}, "not be negative"),
        ({"min_delta": NAN}, "not be negative"),
        ({"min_delta": 5, "delta": "relative"}, "write 1 % as 0.01"),
        ({"delta": "rel"}, "choose from absolute, relative"),
        ({"baseline": NAN}, "baseline=nan"),
        ({"target": INF}, "must be finite"),
        ({"on_nonfinite": "ignore"}, "choose from count, stop"),
        ({"restore": "first"}, "choose from best, last"),
        ({"target": 2.0, "diverge": 1.0}, "target must be better"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EarlyStopping("val/loss", **arguments)


def test_a_mode_is_known_by_name_or_asked_for() -> None:
    assert EarlyStopping("val/loss").mode == "min"
    assert EarlyStopping("test/macro_f1").mode == "max"
    assert EarlyStopping("val/reward", mode="max").mode == "max"
    for name in ("val/reward", "val/neg_mse", "val/loss_ratio"):
        with pytest.raises(ValueError, match='needs mode="min" or mode="max"'):
            EarlyStopping(name)
