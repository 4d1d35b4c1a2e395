import random

import pytest

from checkpointing import Retention, steps_to_delete


@pytest.mark.parametrize(
    ("steps", "keep", "protected", "deleted"),
    [
        ([], 1, (), []),
        ([5], 1, (), []),
        ([1, 2, 3], 3, (), []),
        ([1, 2, 3], 1, (), [1, 2]),
        ([3, 1, 2], 2, (), [1]),
        ([1, 2, 3, 4], 1, (2,), [1, 3]),
        ([1, 2, 3, 4], 2, (4,), [1, 2]),
        ([10, 9, 100], 1, (), [9, 10]),
    ],
)
def test_keeps_the_newest_and_the_protected(steps, keep, protected, deleted):
    assert steps_to_delete(steps, Retention(keep=keep), protected=protected) == deleted


@pytest.mark.parametrize(
    ("steps", "every", "deleted"),
    [
        ([10, 20, 30, 40, 50], 20, [10, 30]),  # 20 and 40, and 50 is the newest
        ([9, 19, 23, 38, 41, 44, 99], 20, [9, 19, 38, 44]),  # the first of [20,40), of [40,60)
        ([1, 2, 3], 1, []),
        ([5, 10], 1000, [5]),
    ],
)
def test_keeps_the_first_at_or_after_each_multiple(steps, every, deleted):
    retention = Retention(keep=1, keep_every_steps=every)
    assert steps_to_delete(steps, retention) == deleted


@pytest.mark.parametrize(
    ("scores", "num_best", "deleted"),
    [
        ({1: 0.5, 2: 0.1, 3: 0.3, 4: 0.2}, 2, [1, 3]),
        ({1: 0.5, 2: 0.1, 3: 0.3, 4: 0.2}, 0, [1, 2, 3, 4]),
        ({1: 0.1, 2: 0.1, 3: 0.1}, 1, [2, 3, 4]),
        ({2: -1.0, 99: -9.0}, 1, [1, 3, 4]),  # 99 is gone already and takes no place
        ({}, 3, [1, 2, 3, 4]),
    ],
)
def test_keeps_the_best(scores, num_best, deleted):
    retention = Retention(keep=1, keep_best=num_best)
    assert steps_to_delete([1, 2, 3, 4, 5], retention, scores=scores) == deleted


def test_the_milestones_of_a_long_run_are_those_that_all_its_saves_would_leave():
    """Whatever was deleted on the way, the same stays as if it were decided at the end."""
    rng = random.Random(0)
    saves = sorted(rng.sample(range(1, 5000), 300))
    scores = {step: rng.random() for step in saves if rng.random() < 0.5}
    retention = Retention(keep=3, keep_every_steps=250, keep_best=4)
    there: set[int] = set()
    for step in saves:
        there.add(step)
        there -= set(steps_to_delete(there, retention, scores=scores, protected=(saves[17],)))
    at_the_end = set(saves) - set(
        steps_to_delete(saves, retention, scores=scores, protected=(saves[17],))
    )
    assert saves[17] in there
    assert there == at_the_end


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"keep": 0}, "keep=0"),
        ({"keep": -1}, "keep=-1"),
        ({"keep": 1, "keep_every_steps": 0}, "keep_every=0"),
        ({"keep": 1, "keep_best": -1}, "keep_best=-1"),
    ],
)
def test_refuses_rules_that_cannot_be_meant(rules, message):
    with pytest.raises(ValueError, match=message):
        Retention(**rules)
