"""What is asked of Slurm, and what is said, when it answers, refuses and is silent."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from launcher.contract.launcher_signals import SignalInbox
from launcher.schedulers.slurm.allocation import Allocation, Role
from launcher.schedulers.slurm.job_info import JobFacts, parse_job
from launcher.schedulers.slurm.requeue import (
    BESIDE_RESERVE_S,
    HOLD_S,
    RESERVE_S,
    WITHOUT_ANSWER_S,
    Requeue,
    by_hand,
)
from launcher.schedulers.slurm.requeue_policy import Ended
from launcher.schedulers.slurm.scontrol import Answer, Scontrol

SHOWN = """JobId=12 JobName=x
   UserId=a(7) GroupId=domain users(7) MCS_label=N/A
   JobState={state} Reason={reason} Dependency=(null)
   Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode=0:0
   StartTime=2026-11-21T05:12:39 EndTime=2026-11-21T06:12:39 Deadline=N/A
   PreemptEligibleTime=2026-11-21T05:12:39 PreemptTime={preempt}
   Partition=low AllocNode:Sid=login:6704
   Command=/home/ab/job.sh
   WorkDir=/home/a b
"""
DOWN = Answer(text="", problem="Unable to contact slurm controller (connect failure)")
FINE = Answer(text="")
ALLOCATION = Allocation(job_id=12, role=Role.BATCH, nodes=("n0",), node_rank=0)


def shown(state="RUNNING", reason="None", restarts=0, preempt="None") -> Answer:
    return Answer(text=SHOWN.format(state=state, reason=reason, restarts=restarts, preempt=preempt))


PREEMPTED = shown(preempt="2026-11-21T05:20:00")


class Slurm:
    """Answers to `show` come one after the other, the last one for ever."""

    def __init__(self, *answers: Answer, requeue: Answer = FINE, update: Answer = FINE):
        self.answers = list(answers)
        self.orders = {"requeue": requeue, "update": update}
        self.asked: list[tuple[str, ...]] = []
        self.now = 1000.0
        self.inbox = SignalInbox()
        self.said: list[str] = []
        self.on_show = lambda: None

    def __call__(self, words: Sequence[str], bound_s: float) -> Answer:
        self.asked.append(tuple(words[1:]))
        if words[1] in self.orders:
            return self.orders[words[1]]
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.on_show()
        return answer

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def settle(self, code: int = 75, allocation: Allocation = ALLOCATION, **more) -> int:
        settlement = Requeue(
            allocation,
            scontrol=Scontrol(self),
            inbox=self.inbox,
            say=self.said.append,
            clock=lambda: self.now,
            sleep=self.sleep,
            **more,
        )
        ended = Ended(code=code, own_restarts=0, warned_by=self.inbox.warned_by)
        return settlement.settle(ended)

    def num_requeues(self) -> int:
        return sum(words[0] == "requeue" for words in self.asked)


def test_a_preempted_job_is_requeued_once_and_its_hold_lifted():
    slurm = Slurm(PREEMPTED)
    assert slurm.settle() == 75
    assert slurm.asked == [
        ("show", "job", "12"),
        ("requeue", "12"),
        ("update", "JobId=12", f"StartTime=now+{HOLD_S}"),
    ]
    assert slurm.said == [
        "preempted: put job 12 back into the queue; it may start 10 s from now and resumes "
        "where it is now."
    ]


def test_an_element_of_an_array_goes_by_its_own_name():
    slurm = Slurm(PREEMPTED)
    element = Allocation(
        job_id=12, role=Role.BATCH, nodes=("n0",), node_rank=0, array_job_id=10, array_task_id=3
    )
    slurm.settle(allocation=element)
    assert ("requeue", "10_3") in slurm.asked


def test_where_the_hold_may_not_be_lifted_that_is_said():
    slurm = Slurm(PREEMPTED, update=Answer(text="", problem="Access/permission denied"))
    assert slurm.settle() == 75
    assert "it may start in about two minutes" in slurm.said[0]


@pytest.mark.parametrize(
    ("code", "answer"),
    [(0, PREEMPTED), (3, PREEMPTED), (75, shown("COMPLETING")), (75, shown("PENDING", restarts=1))],
)
def test_nothing_else_is_requeued(code, answer):
    slurm = Slurm(answer)
    assert slurm.settle(code) == code
    assert slurm.num_requeues() == 0


def test_a_silent_controller_is_asked_again():
    slurm = Slurm(DOWN, DOWN, DOWN, PREEMPTED)
    assert slurm.settle() == 75
    assert slurm.num_requeues() == 1
    assert "asking Slurm why the job ends: Unable to contact slurm controller" in slurm.said[0]
    assert len(slurm.said) == 2


def test_a_controller_that_stays_silent_is_given_up_before_the_deadline():
    slurm = Slurm(DOWN)
    known = parse_job(shown().text)
    assert slurm.settle(143, end_time_s=1060.0, known=known) == 75
    assert 1060.0 - RESERVE_S - 6 <= slurm.now <= 1060.0 - RESERVE_S
    assert slurm.said[-1] == (
        "Slurm does not answer (Unable to contact slurm controller (connect failure)). Unless it "
        "puts the job back into the queue by itself, continue by hand: "
        "sbatch --chdir='/home/a b' /home/ab/job.sh"
    )


def test_without_a_known_deadline_it_is_given_up_too():
    slurm = Slurm(Answer(text="", problem="there is no scontrol here"))
    assert slurm.settle() == 75
    assert slurm.now <= 1000.0 + WITHOUT_ANSWER_S
    assert slurm.said[-1].endswith("continue by hand: scontrol requeue 12")


def test_a_signal_to_this_process_shortens_the_wait():
    slurm = Slurm(DOWN)
    slurm.inbox.warned_at_s = 1000.0
    assert slurm.settle(kill_wait_s=10.0) == 75
    assert slurm.now <= 1010.0 - RESERVE_S


def test_a_refusal_is_told_with_slurms_words():
    slurm = Slurm(PREEMPTED, requeue=Answer(text="", problem="Requested operation is disabled"))
    assert slurm.settle(end_time_s=1020.0) == 75
    assert slurm.num_requeues() > 1
    assert "Slurm did not put job 12 back into the queue: Requested operation" in slurm.said[0]
    assert "Continue by hand: sbatch" in slurm.said[-1] or "scontrol" in slurm.said[-1]


def test_a_cancel_that_comes_between_the_answer_and_the_order_is_seen():
    slurm = Slurm(PREEMPTED, shown("COMPLETING"))

    def cancel() -> None:
        if slurm.inbox.num_warnings == 0:
            slurm.inbox._warn(15, None)

    slurm.on_show = cancel
    assert slurm.settle() == 75
    assert slurm.num_requeues() == 0
    assert "stays so" in slurm.said[-1]


def test_an_order_whose_answer_is_lost_was_taken():
    slurm = Slurm(
        PREEMPTED, shown("COMPLETING", restarts=1), requeue=Answer(text="", problem="killed")
    )
    assert slurm.settle() == 75
    assert slurm.num_requeues() == 1
    assert slurm.asked[-1] == ("update", "JobId=12", f"StartTime=now+{HOLD_S}")
    assert "put job 12 back" in slurm.said[-1]


def test_a_cancel_between_two_orders_is_seen():
    slurm = Slurm(PREEMPTED, shown("COMPLETING"), requeue=Answer(text="", problem="busy"))
    assert slurm.settle() == 75
    assert slurm.num_requeues() == 1
    assert "stays so" in slurm.said[-1]


def test_a_loop_without_progress_is_not_requeued():
    slurm = Slurm(PREEMPTED)
    assert slurm.settle(record=lambda verdict: "five times at step 3") == 93
    assert slurm.num_requeues() == 0
    assert slurm.said == ["five times at step 3"]


def test_a_job_that_may_not_be_requeued_is_told_how_to_go_on():
    answer = Answer(text=PREEMPTED.text.replace("Requeue=1", "Requeue=0"))
    slurm = Slurm(answer)
    assert slurm.settle() == 75
    assert slurm.num_requeues() == 0
    assert slurm.said == [
        "preempted, and the job may not be requeued. Continue by hand: scontrol requeue 12"
    ]


def test_an_interactive_job_is_told_to_start_anew():
    answer = Answer(text=PREEMPTED.text.replace("BatchFlag=1", "BatchFlag=0"))
    slurm = Slurm(answer)
    assert slurm.settle(known=parse_job(answer.text)) == 75
    assert slurm.said == [
        "preempted, and an interactive job cannot be requeued. Continue by hand: start the same "
        "command again, in a new allocation."
    ]


def test_the_command_by_hand():
    facts = JobFacts(
        state="RUNNING", reason="None", restarts=0, preempt_time_s=None, end_time_s=None
    )
    assert by_hand(ALLOCATION, None) == "scontrol requeue 12"
    assert by_hand(ALLOCATION, facts) == "scontrol requeue 12"
    assert by_hand(ALLOCATION, replace(facts, script="/a/job.sh")) == "sbatch /a/job.sh"


@pytest.mark.parametrize(("is_file", "how"), [(True, "sbatch '/a/my job.sh'"), (False, "requeue")])
def test_arguments_of_a_script_are_not_taken_for_its_path(is_file, how):
    facts = parse_job(shown().text.replace("/home/ab/job.sh", "/a/my job.sh"))
    assert facts is not None
    told = by_hand(ALLOCATION, replace(facts, folder=None), is_file=lambda path: is_file)
    assert told == (how if is_file else "scontrol requeue 12")


def test_an_end_that_has_gone_by_does_not_stop_the_asking():
    """The limit was raised meanwhile: this process knows the former end only."""
    slurm = Slurm(DOWN, DOWN, DOWN, PREEMPTED)
    assert slurm.settle(end_time_s=990.0) == 75
    assert slurm.num_requeues() == 1


TASK = replace(ALLOCATION, role=Role.TASK, step=1)


def steps_text(steps: dict[int, bool]) -> str:
    return "".join(
        f"StepId=12.{number} UserId=7 StartTime=x TimeLimit="
        f"{'1388-21:21:00' if has_left else 'UNLIMITED'}\n   State=RUNNING Partition=low\n"
        for number, has_left in steps.items()
    )


class Steps(Slurm):
    """A job whose other steps are seen to work, to wait and to end."""

    def __init__(self, *listed: dict[int, bool], **more):
        super().__init__(PREEMPTED, **more)
        self.listed = list(listed)

    def __call__(self, words: Sequence[str], bound_s: float) -> Answer:
        if words[1:3] != ("show", "step"):
            return super().__call__(words, bound_s)
        steps = self.listed.pop(0) if len(self.listed) > 1 else self.listed[0]
        return Answer(text=steps_text(steps))


def test_the_only_step_of_a_job_does_not_wait():
    slurm = Steps({1: False})
    assert slurm.settle(allocation=TASK) == 75
    assert slurm.num_requeues() == 1
    assert slurm.now == 1000.0
    assert len(slurm.said) == 1


def test_the_requeue_waits_for_the_steps_that_still_work():
    slurm = Steps(
        {0: False, 1: False, 2: False}, {1: True, 2: False}, {1: True, 2: True}, {1: True}
    )
    assert slurm.settle(allocation=TASK) == 75
    assert slurm.num_requeues() == 1
    assert ("update", "StepId=12.1", "TimeLimit=2000001") in slurm.asked
    assert slurm.said[0] == (
        "steps 0, 2 of job 12 are still running: the job goes back into the queue when they have "
        "ended."
    )


def test_of_the_steps_that_wait_the_first_asks():
    slurm = Steps({0: False, 1: False}, {0: True, 1: True})
    assert slurm.settle(allocation=TASK) == 75
    assert slurm.num_requeues() == 0
    assert slurm.said[-1] == "step 0 of job 12, which has left as well, puts the job back."


def test_a_job_that_is_cancelled_beside_a_waiting_step_stays_cancelled():
    slurm = Steps({0: False, 1: False})
    slurm.answers = [PREEMPTED, PREEMPTED, shown("COMPLETING")]
    assert slurm.settle(allocation=TASK) == 75
    assert slurm.num_requeues() == 0
    assert "stays so" in slurm.said[-1]


def test_a_step_that_waits_leaves_when_another_has_put_the_job_back():
    slurm = Steps({0: False, 1: False})
    slurm.answers = [PREEMPTED, shown("COMPLETING", restarts=1)]
    assert slurm.settle(allocation=TASK) == 75
    assert slurm.num_requeues() == 0
    assert slurm.said[-1] == "job 12 is back in the queue."


def test_a_step_that_works_on_holds_the_requeue_up_until_the_time_is_over():
    slurm = Steps({0: False, 1: False})
    end_s = parse_job(PREEMPTED.text).end_time_s
    slurm.now = end_s - 100.0
    assert slurm.settle(allocation=TASK) == 75
    assert end_s - BESIDE_RESERVE_S <= slurm.now <= end_s - BESIDE_RESERVE_S + 5.0
    assert slurm.num_requeues() == 1
    assert slurm.said[-2] == (
        "step 0 of job 12 is still running, but there is no time left to wait: putting the job "
        "back into the queue now, which ends them."
    )


def test_a_step_that_may_not_come_back_waits_for_nobody():
    slurm = Steps({0: False, 1: False})
    assert slurm.settle(allocation=TASK, record=lambda verdict: "stuck") == 93
    assert slurm.said == ["stuck"]


def test_the_process_outside_of_the_steps_waits_for_none():
    slurm = Steps({0: False})
    assert slurm.settle() == 75
    assert slurm.num_requeues() == 1
