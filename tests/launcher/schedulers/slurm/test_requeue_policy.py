"""The table of what happened to a job and what follows."""

import pytest

from launcher.schedulers.slurm.job_info import JobFacts
from launcher.schedulers.slurm.requeue_policy import Cause, Ended, RequeueAction, judge

TERM, USR1 = 15, 10


def facts(state="RUNNING", **more):
    values = {"reason": "None", "restarts": 0, "preempt_time_s": None, "end_time_s": 9.0}
    return JobFacts(state=state, **(values | more))


PREEMPTED = facts(preempt_time_s=1.0)
ROWS = [
    # code, signal here, Slurm's answer -> cause, action, code
    (0, None, facts(), Cause.DONE, RequeueAction.LEAVE, 0),
    (0, TERM, PREEMPTED, Cause.DONE, RequeueAction.LEAVE, 0),
    (3, None, facts(), Cause.FAILED, RequeueAction.LEAVE, 3),
    (3, None, PREEMPTED, Cause.FAILED, RequeueAction.LEAVE, 3),
    (2, None, None, Cause.FAILED, RequeueAction.LEAVE, 2),
    (93, None, PREEMPTED, Cause.FAILED, RequeueAction.LEAVE, 93),
    (137, None, facts(), Cause.FAILED, RequeueAction.LEAVE, 137),
    (75, None, PREEMPTED, Cause.PREEMPTED, RequeueAction.REQUEUE, 75),
    (143, None, PREEMPTED, Cause.PREEMPTED, RequeueAction.REQUEUE, 143),
    (143, None, facts(), Cause.FAILED, RequeueAction.LEAVE, 143),
    (138, USR1, facts(), Cause.ASKED, RequeueAction.REQUEUE, 138),
    (138, None, facts(), Cause.ASKED, RequeueAction.REQUEUE, 138),
    (140, None, facts(), Cause.ASKED, RequeueAction.REQUEUE, 140),
    (138, None, facts("COMPLETING"), Cause.CANCELLED, RequeueAction.LEAVE, 138),
    (75, None, facts(), Cause.ASKED, RequeueAction.REQUEUE, 75),
    (75, USR1, facts(), Cause.ASKED, RequeueAction.REQUEUE, 75),
    (75, TERM, facts("COMPLETING"), Cause.CANCELLED, RequeueAction.LEAVE, 75),
    (75, None, facts("CANCELLED"), Cause.CANCELLED, RequeueAction.LEAVE, 75),
    (75, TERM, facts("COMPLETING", restarts=1), Cause.REQUEUED, RequeueAction.LEAVE, 75),
    (143, TERM, facts("PENDING", restarts=1), Cause.REQUEUED, RequeueAction.LEAVE, 143),
    (
        75,
        TERM,
        facts("COMPLETING", reason="TimeLimit"),
        Cause.TIME_LIMIT,
        RequeueAction.REQUEUE,
        75,
    ),
    (
        143,
        TERM,
        facts("COMPLETING", reason="TimeLimit"),
        Cause.TIME_LIMIT,
        RequeueAction.LEAVE,
        143,
    ),
    (75, TERM, facts("COMPLETING", preempt_time_s=1.0), Cause.PREEMPTED, RequeueAction.LEAVE, 75),
    (75, None, None, Cause.UNKNOWN, RequeueAction.ASK_AGAIN, 75),
    (143, None, None, Cause.UNKNOWN, RequeueAction.ASK_AGAIN, 75),
    (
        75,
        None,
        facts(preempt_time_s=1.0, may_requeue=False),
        Cause.PREEMPTED,
        RequeueAction.TELL,
        75,
    ),
    (75, None, facts(is_batch=False), Cause.ASKED, RequeueAction.TELL, 75),
]


@pytest.mark.parametrize(("code", "signum", "answer", "cause", "action", "left_with"), ROWS)
def test_table(code, signum, answer, cause, action, left_with):
    verdict = judge(Ended(code=code, own_restarts=0, warned_by=signum), answer)
    assert (verdict.cause, verdict.action, verdict.code) == (cause, action, left_with)


def test_nothing_but_a_running_job_or_its_time_limit_is_ever_requeued():
    for state in ("COMPLETING", "CANCELLED", "PREEMPTED", "NODE_FAIL", "PENDING", "SUSPENDED"):
        for code in (0, 1, 75, 93, 137, 143):
            for restarts in (0, 1):
                for preempt in (None, 1.0):
                    answer = facts(state, restarts=restarts, preempt_time_s=preempt)
                    verdict = judge(Ended(code=code, own_restarts=0, warned_by=TERM), answer)
                    assert verdict.action is not RequeueAction.REQUEUE


def test_a_second_start_counts_from_its_own_restarts():
    ended = Ended(code=75, own_restarts=2)
    assert judge(ended, facts(restarts=2, preempt_time_s=1.0)).action is RequeueAction.REQUEUE
    assert judge(ended, facts(restarts=3, preempt_time_s=1.0)).action is RequeueAction.LEAVE
