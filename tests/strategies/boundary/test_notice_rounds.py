"""What ranks learn of a notice inside a step, and what follows from it."""

from typing import Any, cast

import pytest

from strategies.boundary.notice_rounds import (
    MOST_LEFT_OUT,
    ROUND_EVERY_S,
    AgreedNotice,
    Look,
    NoticeRounds,
    left_out_after,
)
from strategies.boundary.time_left import TimeLeft
from strategies.collectives.process_group import Ranks


def summed(*looks: Look) -> AgreedNotice:
    return AgreedNotice.of(
        [sum(column) for column in zip(*(x.numbers() for x in looks), strict=True)]
    )


def test_notices_add_up_and_the_time_is_the_coordinators() -> None:
    coordinator = Look(
        time_is_limited=True, left_s=9.0, step_s=2.0, save_s=-1.0, unit_s=0.5, needed_s=4.0
    )
    found = summed(coordinator, Look(asked=True, lacks_data=True), Look(asked=True))
    assert found == AgreedNotice(
        asked=2,
        lacks_data=1,
        time=TimeLeft(left_s=9.0, step_s=2.0, save_s=None),
        unit_s=0.5,
        needed_s=4.0,
    )
    assert summed(Look(), Look(asked=True)) == AgreedNotice(asked=1, time=None)


def limited(left_s: float, save_s: float | None = 1.0) -> TimeLeft:
    return TimeLeft(left_s=left_s, save_s=save_s)


@pytest.mark.parametrize(
    ("notice", "units_left", "ends"),
    [
        (AgreedNotice(asked=0, time=None, unit_s=100.0), 5, False),
        (AgreedNotice(asked=1, time=None, unit_s=0.4), 2, False),  # it ends within a second
        (AgreedNotice(asked=1, time=None, unit_s=0.6), 2, True),
        (AgreedNotice(asked=1, time=limited(10.0), unit_s=0.4), 2, False),
        (
            AgreedNotice(asked=1, time=limited(2.0), unit_s=0.4),
            2,
            True,
        ),  # a save must fit behind it
        (AgreedNotice(asked=1, time=limited(2.0, None), unit_s=0.4), 2, False),
        (AgreedNotice(asked=1, lacks_data=1, time=None), 1, True),
    ],
)
def test_a_step_is_given_up_where_it_does_not_end_soon(
    notice: AgreedNotice, units_left: int, ends: bool
) -> None:
    assert notice.ends_step(units_left) is ends


@pytest.mark.parametrize(
    ("notice", "refuses"),
    [
        (AgreedNotice(asked=0, time=None, needed_s=100.0), False),
        (AgreedNotice(asked=1, time=None), True),
        (AgreedNotice(asked=0, time=limited(100.0), needed_s=20.0), False),
        (AgreedNotice(asked=0, time=limited(25.0), needed_s=20.0), True),
        (AgreedNotice(asked=0, time=limited(25.0), needed_s=0.0), False),  # not known: it is tried
    ],
)
def test_an_evaluation_that_does_not_fit_is_not_begun(notice: AgreedNotice, refuses: bool) -> None:
    assert notice.refuses() is refuses


@pytest.mark.parametrize(
    ("unit_s", "left_out"),
    [(0.0, 0), (10.0, 0), (ROUND_EVERY_S, 0), (ROUND_EVERY_S / 5, 4), (1e-9, MOST_LEFT_OUT)],
)
def test_rounds_need_not_come_more_often(unit_s: float, left_out: int) -> None:
    assert left_out_after(unit_s) == left_out


class Channel:
    """Counts the rounds of a rank alone."""

    def __init__(self) -> None:
        self.num_started = 0

    def start(self, values: list[float]) -> Any:
        self.num_started += 1
        self.values = values
        return self

    def wait(self) -> list[float]:
        return self.values


def test_a_round_is_left_out_by_agreed_numbers_only_and_the_last_never_is() -> None:
    channel = Channel()
    look = Look(unit_s=ROUND_EVERY_S / 3)
    rounds = NoticeRounds(cast(Ranks, type("Alone", (), {"channel": channel})()), lambda: look)
    came = []
    for number in range(6):
        rounds.begin(must=number == 5)
        came.append(rounds.end() is not None)
    assert came == [True, False, False, True, False, True]
    assert channel.num_started == 3
