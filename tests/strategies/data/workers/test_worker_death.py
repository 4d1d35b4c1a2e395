"""Which batches a dead worker had in hand, and what is said of it."""

import signal

import pytest

from strategies.data.workers.worker_death import (
    Death,
    WorkerEnd,
    batches_of,
    complaint,
    how_it_ended,
    is_same_batch,
    warning,
)


@pytest.mark.parametrize(
    ("workers", "opened_at", "delivered", "num_drawn", "expected"),
    [
        ([0], 0, 0, 4, (0, 2)),
        ([1], 0, 0, 4, (1, 3)),
        ([1], 0, 2, 4, (3, 5)),
        ([0], 3, 3, 4, (3, 5)),
        ([0], 3, 4, 4, (5, 7)),
        ([0, 1], 0, 1, 3, (1, 2, 3)),
        ([1], 0, 4, 1, ()),
        ([], 0, 4, 4, ()),
    ],
)
def test_batches_in_hand(
    workers: list[int], opened_at: int, delivered: int, num_drawn: int, expected: tuple[int, ...]
) -> None:
    found = batches_of(
        workers, num_workers=2, opened_at=opened_at, delivered=delivered, num_drawn=num_drawn
    )
    assert found == expected


def death(delivered: int, *in_hand: int, exit_code: int | None = -9) -> Death:
    end = WorkerEnd(number=1, pid=70, exit_code=exit_code)
    return Death(ends=(end,), delivered=delivered, in_hand=in_hand)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, death(0, 0, 2), False),
        (death(0, 0, 2), death(0, 1, 3), True),  # no batch was read in between
        (death(0, 1, 3), death(2, 3, 5), True),
        (death(0, 1, 3), death(4, 4, 6), False),
        (death(0), death(1), False),
    ],
)
def test_the_same_batch_again(before: Death | None, now: Death, expected: bool) -> None:
    assert is_same_batch(before, now) is expected


@pytest.mark.parametrize(
    ("exit_code", "expected"),
    [
        (None, "ended"),
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-signal.SIGKILL, "was ended by SIGKILL"),
        (-99, "was ended by signal 99"),
    ],
)
def test_how_it_ended(exit_code: int | None, expected: str) -> None:
    assert how_it_ended(exit_code) == expected


def test_the_sentences() -> None:
    assert warning(death(0)) == (
        "loader worker 1 (pid 70) was ended by SIGKILL. Its batches are read again by new workers."
    )
    said = complaint(death(0), range(10))
    assert said.startswith(
        "loader worker 1 (pid 70) was ended by SIGKILL, for the second time at the batch of the "
        "samples 0, 1, 2, 3, 4, 5, 6, 7 and 2 more. SIGKILL mostly means"
    )
    assert said.endswith("With workers=0 the rank reads by itself and shows where it fails.")
    assert "at a batch. " in complaint(death(0), [])
    lost = Death(ends=(), delivered=0, in_hand=())
    assert warning(lost).startswith("the connection to the loader workers broke. ")


@pytest.mark.parametrize(
    ("exit_code", "word"),
    [(-9, "memory"), (-7, "/dev/shm"), (-11, "decodes"), (0, "sys.exit"), (None, "sys.exit")],
)
def test_the_advice_follows_from_the_end(exit_code: int | None, word: str) -> None:
    assert word in complaint(death(0, exit_code=exit_code), [1])
