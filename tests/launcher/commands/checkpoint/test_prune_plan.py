import pytest

from checkpointing import Retention
from launcher.commands.checkpoint.prune_plan import plan_prune


@pytest.mark.parametrize(
    ("references", "damaged", "best", "keep", "checkpoints", "best_going", "num_reasons"),
    [
        ({}, [], [], 1, (), (), 0),
        ({1: None, 2: None}, [], [], 1, (1,), (), 0),
        ({1: None, 2: None}, [], [], 2, (), (), 0),
        ({1: 1, 2: 1}, [], [1], 1, (1,), (), 0),  # the copy in best/ is enough
        ({1: 1, 2: 1}, [], [], 1, (), (), 1),
        ({1: 1, 2: 1, 3: 3}, [], [1, 3], 1, (1, 2), (1,), 0),
        ({1: 1, 2: 1, 3: 3}, [], [1, 3], 2, (1,), (), 0),
        ({1: 1, 3: 3}, [2], [1, 3], 1, (1,), (), 2),
        ({}, [1], [1], 1, (), (), 2),
        ({}, [], [1], 1, (), (), 1),  # nothing says that it is not wanted
    ],
)
def test_plan(references, damaged, best, keep, checkpoints, best_going, num_reasons):
    plan = plan_prune(
        references,
        damaged=damaged,
        best=best,
        retention=Retention(keep=keep),
        scores={},
        protected={},
    )
    assert (plan.checkpoints, plan.best) == (checkpoints, best_going)
    assert len(plan.reasons) == num_reasons


def test_what_is_protected_stays_and_says_why():
    plan = plan_prune(
        {1: 1, 2: 1, 3: 3, 4: 3},
        damaged=[],
        best=[1, 3],
        retention=Retention(keep=1, keep_best=1),
        scores={2: 0.1, 3: 0.2},
        protected={1: "it is pinned", 4: "nobody would delete it"},
    )
    assert (plan.checkpoints, plan.best) == ((3,), ())
    assert plan.reasons == ("step 1 stays: it is pinned",)
