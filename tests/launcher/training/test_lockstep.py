import pytest

from launcher.training.lockstep import LEFT_S, Stop, disagreement, users_line, where_raised

MINE = Stop(calls=2, what="the training loop", where="train.py:20", step=12, ended=True)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({}, None),
        ({0: Stop(calls=1, what="run.prepare", where="train.py:8", step=0)}, None),
        ({0: Stop(calls=2, what="the training loop", where="train.py:20", step=12)}, None),
        (
            {0: Stop(calls=3, what="job.export", where="train.py:30", step=12)},
            "rank 1 ended main after the training loop (train.py:20, step 12), and rank 0 went on "
            "to job.export (train.py:30, step 12), which needs all ranks. Do not return early on "
            "some ranks.",
        ),
    ],
)
def test_a_rank_that_did_more_than_one_that_has_ended(others, expected):
    assert disagreement(1, MINE, others) == expected


def test_lines_of_the_users():
    assert users_line().startswith("test_lockstep.py:")
    with pytest.raises(ValueError, match="invalid literal") as raised:
        int("x")
    assert where_raised(raised.value).startswith("test_lockstep.py:")
    assert where_raised(ValueError()) is None


def test_a_rank_that_has_left_is_ended_well_within_ten_seconds():
    assert 0 < LEFT_S <= 5
