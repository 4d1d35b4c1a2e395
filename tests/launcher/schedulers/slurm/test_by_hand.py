"""Words in a job that say themselves how the nodes meet: who requeues, and what is said."""

from dataclasses import replace

import pytest

from launcher.command_line.argv import read_words
from launcher.command_line.parser import parse_options
from launcher.contract.launcher_signals import SignalInbox
from launcher.plan.launch_plan import make_plan
from launcher.plan.machine import Machine
from launcher.schedulers.slurm.allocation import Allocation, Role
from launcher.schedulers.slurm.default_options import is_last_word
from launcher.schedulers.slurm.environment import SlurmEnvironment
from launcher.schedulers.slurm.scontrol import Answer, Scontrol

MACHINE = Machine(num_gpus=0, num_cpus=2, cuda_visible_devices=None)
TASK = Allocation(job_id=12, role=Role.TASK, nodes=("n0", "n1"), node_rank=0, tasks_per_node=(1, 1))
BATCH = replace(TASK, role=Role.BATCH, nodes=("n0",), tasks_per_node=None, is_script=True)
MEETS = (
    *("--nnodes=2", "--rdzv-id=12", "--rdzv-backend=c10d", "--rdzv-conf=is_host=1"),
    "--rdzv-endpoint=n0:29000",
)
PREEMPTED = """JobId=12 JobName=x
   UserId=a(7) GroupId=a(7) MCS_label=N/A
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   StartTime=2026-11-21T05:12:39 EndTime=2026-11-21T06:12:39 Deadline=N/A
   PreemptEligibleTime=2026-11-21T05:12:39 PreemptTime=2026-11-21T05:20:00
   Partition=low AllocNode:Sid=login:6704
   Command=/a/job.sh
   WorkDir=/a
"""


@pytest.mark.parametrize(
    ("words", "allocation", "is_last"),
    [
        (MEETS, TASK, True),
        (MEETS, replace(TASK, task=1, node_rank=1), False),
        (MEETS, replace(TASK, is_whole_job=False), False),
        (MEETS, replace(TASK, in_step=False), False),
        (("--standalone",), replace(TASK, nodes=("n0",)), False),
        (("--standalone",), BATCH, True),
        (("--standalone",), replace(BATCH, is_script=False), False),
        (MEETS, BATCH, True),
        (("--standalone",), replace(BATCH, role=Role.OUTSIDE), False),
    ],
)
def test_who_may_requeue(words, allocation, is_last):
    assert is_last_word(read_words((*words, "t.py"), {}), allocation) is is_last


class Start:
    """A start of the command in the job, with a Slurm that says it was preempted."""

    def __init__(self, folder, allocation, *words):
        (folder / "train.py").write_text("")
        self.said: list[str] = []
        self.asked: list[tuple[str, ...]] = []
        words = read_words((*words, str(folder / "train.py")), {})
        scontrol = Scontrol(self.ask)
        self.place = SlurmEnvironment(allocation, {}, (), self.said.append, scontrol)
        self.plan = make_plan(parse_options(self.place.supply(words)), MACHINE)

    def ask(self, words, bound_s):
        self.asked.append(tuple(words[1:]))
        return Answer(text=PREEMPTED if words[1:3] == ("show", "job") else "")

    def end(self, code):
        inbox = SignalInbox()
        assert self.place.run_agents(self.plan, inbox) is None
        self.plan = self.place.adjust(self.plan)
        return self.place.conclude(code, self.plan, inbox)


@pytest.mark.parametrize(
    ("allocation", "words"), [(TASK, MEETS), (BATCH, ("--standalone",))], ids=["srun", "exec"]
)
def test_a_preempted_job_is_requeued_as_without_the_words(tmp_path, allocation, words):
    start = Start(tmp_path, allocation, *words)
    assert start.end(75) == 75
    assert ("requeue", "12") in start.asked
    assert start.said[0].startswith("preempted: put job 12 back into the queue")
    assert start.plan.limits.end_time_s is not None


@pytest.mark.parametrize("code", [0, 3])
def test_what_has_ended_by_itself_is_not(tmp_path, code):
    start = Start(tmp_path, TASK, *MEETS)
    assert start.end(code) == code
    assert start.said == []
    assert ("requeue", "12") not in start.asked


def test_where_nobody_requeues_it_is_said_at_the_start_and_at_the_end(tmp_path):
    start = Start(tmp_path, replace(BATCH, is_script=False), "--standalone")
    assert start.end(75) == 75
    assert ("requeue", "12") not in start.asked
    assert start.said == [
        "--standalone inside Slurm job 12: after a preemption or the time limit relaunch does not "
        "put the job back into the queue. Leave the word out, and write `exec relaunch` as the "
        "last line of the batch script.",
        "unless Slurm puts job 12 back into the queue, continue by hand: "
        "sbatch --chdir=/a /a/job.sh",
    ]


def test_the_other_tasks_are_silent(tmp_path):
    start = Start(tmp_path, replace(TASK, task=1, node_rank=1, end_time_s=2e9), *MEETS)
    assert start.end(75) == 75
    assert (start.said, start.asked) == ([], [])
    assert start.plan.limits.end_time_s == 2e9
