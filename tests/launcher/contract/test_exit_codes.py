"""From the ends of the ranks to the launcher's exit code."""

import signal

import pytest

from launcher.contract.exit_codes import (
    CONTINUE,
    RankEnd,
    exit_code,
    first_failure,
    followers,
    spare,
)
from launcher.contract.files.leaving import Leaving

TERM, KILL, INT = int(signal.SIGTERM), int(signal.SIGKILL), int(signal.SIGINT)
NOTICES = ("SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1", "SIGUSR2")


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
    return RankEnd(rank=rank, local_rank=rank, pid=100 + rank, status=status, **seen, **more)


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


@pytest.mark.parametrize(
    ("handled", "statuses", "left_s", "code"),
    [
        ((False, False), (0, 0), None, 0),  # ignored, or ended before it was told
        ((True, True), (0, 0), None, 75),  # as Lightning's Trainer breaks off
        ((False, True), (0, 0), None, 75),
        ((True,), (0,), 1.5, 0),  # it has said that it is done
        ((True, True), (0, 3), None, 3),
        ((True, True), (0, 75), None, 75),
    ],
)
def test_an_end_with_0_after_a_handled_notice_is_not_taken_for_done(
    handled, statuses, left_s, code
):
    ends = [
        outcome(rank, status, 2.0, caught_notice=caught, left_s=left_s)
        for rank, (status, caught) in enumerate(zip(statuses, handled, strict=True))
    ]
    assert exit_code(ends, warned_by=TERM) == code


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


def told(rank, at_s, code=1, **more):
    """A rank that left with an exception which it told at a moment."""
    return outcome(rank, code, 9, **more).told(at_s, code)


LEFT = outcome(0, 75, 5, left_s=4.5)
STILL = outcome(0, 0, 5)
FALLS = [
    # who has left, the other rank's end, warned by -> the code, whether it only fell
    (LEFT, told(1, 4.6, lost_peer=True), None, 75, True),
    (LEFT, told(1, 4.6, lost_peer=True), TERM, 75, True),
    (LEFT, told(1, 4.4, lost_peer=True), TERM, 1, False),
    (LEFT, told(1, 4.6), TERM, 1, False),
    (LEFT, told(1, 4.6, 2, lost_peer=True), TERM, 2, False),
    (LEFT, outcome(1, 1, 6, lost_peer=True), TERM, 75, True),
    (LEFT, outcome(1, -6, 6, lost_peer=True), None, 75, True),
    (LEFT, outcome(1, -6, 6), None, 134, False),
    (LEFT, outcome(1, -TERM, 6), TERM, 75, True),
    (LEFT, outcome(1, -TERM, 4), TERM, 75, True),
    (LEFT, outcome(1, -int(signal.SIGHUP), 6), None, 75, True),
    (LEFT, outcome(1, -KILL, 6), TERM, 137, False),
    (LEFT, outcome(1, 3, 6), TERM, 3, False),
    (LEFT, outcome(1, 93, 6, lost_peer=True), TERM, 93, True),
    (outcome(0, 75, 5), told(1, 4.5, lost_peer=True), TERM, 75, True),
    (outcome(0, 75, 5), told(1, 3.5, lost_peer=True), TERM, 1, False),
    (STILL, told(1, 4.6, lost_peer=True), TERM, 1, False),
    (STILL, outcome(1, -TERM, 6), TERM, 143, False),
]


@pytest.mark.parametrize(("left", "other", "warned_by", "code", "fell"), FALLS)
def test_who_falls_since_the_others_have_left_is_no_failure(left, other, warned_by, code, fell):
    ends = [left, other]
    assert exit_code(ends, warned_by=warned_by) == code
    assert followers(ends) == ((other,) if fell else ())
    assert first_failure(ends) == (None if fell else other)


@pytest.mark.parametrize("name", NOTICES)
@pytest.mark.parametrize("code", [0, 75])
def test_a_rank_that_told_its_leaving_has_left_whatever_ended_it(name, code):
    said = Leaving(code=code, told_s=3.0)
    for status in (-signal.Signals[name], -KILL, -signal.SIGSEGV, None):
        for since_s in (None, 4.0):
            end = outcome(0, status, 5, ending_since_s=since_s).leaving(said)
            assert (end.status, end.failure(), end.by_launcher) == (code, None, False)
            assert exit_code([end], warned_by=TERM) == code
    assert outcome(0, 120, 5).leaving(said).status == code, "its console was gone"
    assert outcome(0, 1, 5).leaving(said).status == 1, "an exit code of its own counts"
    assert outcome(0, -TERM, 5).leaving(None).status == -TERM


@pytest.mark.parametrize("name", [*NOTICES, "SIGKILL", "SIGSEGV", "SIGABRT"])
@pytest.mark.parametrize("warned", [True, False])
@pytest.mark.parametrize("nothing_begun", [True, False])
def test_where_nothing_was_begun_a_notice_costs_nothing(name, warned, nothing_begun):
    signum = int(signal.Signals[name])
    ends = spare([outcome(0, -signum, 5)], nothing_begun=nothing_begun, warned=warned)
    is_spared = nothing_begun and name in NOTICES
    ended = 143 if warned and name in NOTICES else 128 + signum
    assert exit_code(ends, warned_by=TERM if warned else None) == (75 if is_spared else ended)
    assert ends[0].spared == (-signum if is_spared else None)


@pytest.mark.parametrize(
    ("ends", "warned", "code"),
    [
        # --grace is over before anything was begun.
        ([(-KILL, 5, True), (-KILL, 5, True)], True, 75),
        ([(-KILL, 5, True), (None, 5, True)], True, 75),
        # The launcher ended it for a failure, which keeps its code.
        ([(1, 4, False), (-TERM, 5, True)], False, 1),
        ([(1, 4, False), (-TERM, 5, True)], True, 1),
        ([(-signal.SIGSEGV, 4, False), (-TERM, 5, True)], True, 139),
        # As for a hang, or a second Ctrl-C.
        ([(-KILL, 5, True)], False, 137),
        ([(-TERM, 4, False), (-KILL, 5, True)], False, 75),
        ([(-TERM, 4, False), (2, 4, False)], False, 2),
        ([(-TERM, 4, False), (93, 4, False)], True, 93),
        ([75, (-KILL, 5, True)], False, 75),
        ([0, (-TERM, 4, False)], False, 75),
    ],
)
def test_what_the_launcher_ended_where_nothing_was_begun(ends, warned, code):
    spared = spare(outcomes(*ends), nothing_begun=True, warned=warned)
    assert exit_code(spared, warned_by=TERM if warned else None) == code


def test_a_peers_words_after_a_rank_was_asked_to_leave_early():
    ends = [outcome(0, -TERM, 5), told(1, 4.8, lost_peer=True), told(2, 4.9)]
    assert exit_code(spare(ends[:2], nothing_begun=True, warned=False)) == CONTINUE
    assert exit_code(spare(ends, nothing_begun=True, warned=False)) == 1
