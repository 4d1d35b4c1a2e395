"""What a rank's script and loops know of a notice."""

from typing import cast

import pytest

from launcher.contract.preemption import PreemptionFlag
from launcher.training.ending.notices import PATIENCE_S, DataPatience, Notice, notice_of


class Flag:
    requested = False
    cause: str | None = None
    deadline: float | None = None


def test_the_notice_is_none_or_its_cause_and_the_seconds_left() -> None:
    flag = Flag()
    assert notice_of(cast(PreemptionFlag, flag), 100.0) is None
    flag.cause = "time limit"
    assert notice_of(cast(PreemptionFlag, flag), 100.0) == Notice(cause="time limit", left_s=None)
    flag.deadline = 130.0
    assert notice_of(cast(PreemptionFlag, flag), 100.0) == Notice(cause="time limit", left_s=30.0)
    assert notice_of(cast(PreemptionFlag, flag), 140.0) == Notice(cause="time limit", left_s=0.0)


@pytest.mark.parametrize(
    ("deadline", "waited_s", "is_over"),
    [
        (None, PATIENCE_S - 0.01, False),
        (None, PATIENCE_S, True),
        (1002.0 + 2.0, 0.5, True),  # four seconds, less two saves of one: a quarter of that
        (1002.0 + 2.0, 0.4, False),
        (1001.0, 0.0, True),
    ],
)
def test_data_is_waited_for_as_long_as_the_deadline_lets(
    deadline: float | None, waited_s: float, is_over: bool
) -> None:
    flag, now = Flag(), [5.0]
    patience = DataPatience(
        cast(PreemptionFlag, flag), save_s=lambda: 1.0, clock=lambda: now[0], epoch=lambda: 1000.0
    )
    patience.begin()
    now[0] = 50.0
    assert not patience.is_over()  # without a notice for ever
    flag.requested, flag.deadline = True, deadline
    patience.is_over()
    now[0] += waited_s
    assert patience.is_over() is is_over


def test_a_wait_that_begins_after_the_notice_has_its_own_time() -> None:
    flag, now = Flag(), [0.0]
    flag.requested = True
    patience = DataPatience(cast(PreemptionFlag, flag), save_s=lambda: 0.0, clock=lambda: now[0])
    assert not patience.is_over()
    now[0] = 10.0
    patience.begin()
    assert not patience.is_over()
    now[0] += PATIENCE_S
    assert patience.is_over()
