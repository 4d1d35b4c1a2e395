"""From the ends of the ranks to the launcher's exit code."""

import signal

import pytest

from launcher.exit_codes import Outcome, exit_code, first_failure

TERM, KILL, INT = int(signal.SIGTERM), int(signal.SIGKILL), int(signal.SIGINT)


def outcomes(*ends):
    """Each end is a status (seen at the first look), or (status, look, by_launcher)."""
    full = [end if isinstance(end, tuple) else (end, 1, False) for end in ends]
    return [
        outcome(rank, status, look, ending_since_s=0.0 if by_launcher else None)
        for rank, (status, look, by_launcher) in enumerate(full)
    ]


def outcome(rank, status, look, **more):
    """Looks are a second apart."""
    seen = {"alive_s": look - 1.0, "seen_s": float(look)}
    return Outcome(rank=rank, local_rank=rank, pid=100 + rank, status=status, **seen, **more)


@pytest.mark.parametrize(
    ("ends", "warned_by", "killed_now", "code"),
    [
        ([0, 0], None, False, 0),
        ([0, 0], TERM, False, 0),
        ([75, 75], TERM, False, 75),
        ([75, 0], None, False, 75),
        ([75, (-KILL, 9, True)], TERM, False, 75),
        ([75, (3, 2, False)], TERM, False, 3),
        ([(42, 1, False), (-TERM, 2, True)], None, False, 42),
        ([(1, 3, False), (42, 2, False)], None, False, 42),
        ([(1, 2, False), (-KILL, 2, False)], None, False, 137),
        ([(1, 2, False), (93, 3, True)], None, False, 93),
        ([2, 2], None, False, 2),
        ([-signal.SIGSEGV], None, False, 139),
        ([-TERM], None, False, 143),
        ([-TERM, -TERM], TERM, False, 143),
        ([-TERM, (1, 2, False)], int(signal.SIGUSR1), False, 138),
        ([-TERM], INT, False, 130),
        ([0, (-KILL, 2, True)], TERM, False, 143),
        ([75, (-KILL, 2, True)], INT, True, 130),
        ([75, 75], INT, True, 75),
        ([(-KILL, 2, True)], INT, True, 130),
        ([(7, 1, False), (-KILL, 2, True)], INT, True, 7),
        ([None], None, False, 137),
        ([0, (None, 2, True)], None, False, 137),
    ],
)
def test_exit_code(ends, warned_by, killed_now, code):
    assert exit_code(outcomes(*ends), warned_by=warned_by, killed_now=killed_now) == code


def test_first_failure_is_the_earliest_that_failed_by_itself():
    ends = outcomes((-TERM, 5, True), (75, 1, False), (3, 4, False), (4, 6, False))
    first = first_failure(ends)
    assert first is not None
    assert first.rank == 2


def test_at_the_same_look_a_killed_rank_comes_first():
    first = first_failure(outcomes((1, 4, False), (1, 4, False), (-KILL, 4, False)))
    assert first is not None
    assert first.rank == 2


def test_of_those_seen_at_one_look_the_one_that_left_with_a_sentence_is_the_cause():
    first = first_failure(outcomes((1, 4, False), (2, 4, False), (1, 4, False)))
    assert first is not None
    assert first.rank == 1
    earlier = first_failure(outcomes((1, 3, False), (2, 4, False)))
    assert earlier is not None
    assert earlier.rank == 0


def test_what_a_rank_told_counts_before_the_look_that_found_it_ended():
    fell, cause = outcome(0, 1, 5), outcome(1, 2, 9)
    first = first_failure([fell.told(4.5, 1), cause.told(4.2, 2)])
    assert first is not None
    assert first.rank == 1
    assert exit_code([fell.told(4.5, 1), cause.told(4.2, 2)]) == 2


def test_a_rank_that_was_ended_while_it_left_has_failed_by_itself():
    """It told its mistake, then a peer fell and was seen first, then the launcher ended it."""
    fell = outcome(0, 1, 5).told(4.5, 1)
    ended = outcome(1, -TERM, 6, ending_since_s=5.0)
    assert ended.by_launcher
    cause = ended.told(4.2, 2)
    assert (cause.by_launcher, cause.status) == (False, 2)
    assert first_failure([fell, cause]) == cause
    assert ended.told(5.5, 2).by_launcher, "what it tells of its end by the launcher is no cause"
    assert first_failure([fell, ended.told(5.5, 2)]) == fell


@pytest.mark.parametrize("told_s", [None, 6.5])
def test_a_time_that_cannot_be_is_none(told_s):
    ended = outcome(0, -TERM, 6, ending_since_s=5.0)
    assert ended.told(told_s, 2) == ended
