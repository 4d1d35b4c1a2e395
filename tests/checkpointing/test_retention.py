import pytest

from checkpointing import steps_to_delete


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
    assert steps_to_delete(steps, keep=keep, protected=protected) == deleted


@pytest.mark.parametrize("keep", [0, -1])
def test_refuses_to_keep_nothing(keep):
    with pytest.raises(ValueError, match=f"keep={keep}"):
        steps_to_delete([1], keep=keep)
