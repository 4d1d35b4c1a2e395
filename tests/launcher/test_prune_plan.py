import pytest

from launcher.checkpoint_command.prune_plan import plan_prune


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
    plan = plan_prune(references, damaged=damaged, best=best, keep=keep)
    assert (plan.checkpoints, plan.best) == (checkpoints, best_going)
    assert len(plan.reasons) == num_reasons
