"""What is said about an attempt that a preemption notice ended."""

import signal

import pytest

from launcher.agent.attempts.preemption import (
    followers_text,
    nothing_begun_text,
    ranks_text,
    unsaved_text,
)
from launcher.contract.exit_codes import RankEnd, spare

TERM, KILL, HUP = -int(signal.SIGTERM), -int(signal.SIGKILL), -int(signal.SIGHUP)


def ends(*statuses, ended=()):
    """Ranks from 0; those in `ended` were ended by the launcher."""
    return [
        RankEnd(
            rank=rank,
            local_rank=rank,
            pid=4000 + rank,
            status=status,
            alive_s=1.0,
            seen_s=2.0,
            ending_since_s=1.5 if rank in ended else None,
        )
        for rank, status in enumerate(statuses)
    ]


BEFORE = (
    "before the first step of this start: there was nothing to save. The same command resumes the "
    "run."
)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (ends(KILL, TERM, ended=[0]), f"rank 1 was preempted (SIGTERM) {BEFORE}"),
        (ends(HUP, TERM), f"ranks 0, 1 were preempted (SIGHUP, SIGTERM) {BEFORE}"),
        (ends(KILL, KILL, ended=[0, 1]), f"ranks 0, 1 had to be ended {BEFORE}"),
        (ends(75, KILL, ended=[1]), f"rank 0 exited with 75 {BEFORE}"),
        (ends(75, 75), f"ranks 0, 1 exited with 75 {BEFORE}"),
        (ends(0, 0), ""),
    ],
)
def test_nothing_was_begun(found, text):
    assert nothing_begun_text(spare(found, nothing_begun=True, warned=True)) == text


def test_who_fell():
    found = ends(75, TERM)
    assert followers_text(found, {}) == (
        "rank 1 ended because the others had saved and exited: this is not a failure."
    )
    assert followers_text(found, {1: "RuntimeError: a"}) == (
        "rank 1 ended (RuntimeError: a) because the others had saved and exited: this is not a "
        "failure."
    )
    assert followers_text(ends(75, 75), {}) == ""
    assert followers_text(ends(3, TERM), {}) == ""


@pytest.mark.parametrize(
    ("step", "newest", "grace_s", "text"),
    [
        (7, 5, None, "ranks 0, 1 ended by SIGTERM, SIGKILL before the run was saved: step 7 was "
                     "finished, and the newest checkpoint is of step 5: 2 steps will be "
                     "repeated."),
        (7, 6, 5.0, "ranks 0, 1 ended by SIGTERM, SIGKILL before the run was saved (--grace 5): "
                    "step 7 was finished, and the newest checkpoint is of step 6: 1 step will be "
                    "repeated."),
        (7, 7, None, "ranks 0, 1 ended by SIGTERM, SIGKILL before the run was saved: step 7 was "
                     "finished, and the newest checkpoint is of step 7: nothing will be "
                     "repeated."),
        (7, None, None, "ranks 0, 1 ended by SIGTERM, SIGKILL before the run was saved: step 7 was "
                        "finished, and no checkpoint is known. Steps since the newest checkpoint "
                        "will be repeated."),
        (None, 3, None, "ranks 0, 1 ended by SIGTERM, SIGKILL before the run was saved. The run "
                        "resumes from its newest checkpoint."),
    ],
)  # fmt: skip
def test_what_could_not_be_saved(step, newest, grace_s, text):
    found = ends(TERM, KILL, ended=[1])
    assert unsaved_text(found, step=step, newest=newest, grace_s=grace_s) == text


def test_ranks_text():
    assert ranks_text([8]) == "rank 8"
    assert ranks_text([8, 9]) == "ranks 8, 9"
