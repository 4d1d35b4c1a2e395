"""A job's record as Slurm 22.05 prints it: no name, comment or path is taken for a field."""

import re

import pytest

from launcher.schedulers.slurm.job_info import JobFacts, parse_job, parse_node_addr

RECORD = """\
JobId=12629 JobName={name}
   UserId=root(0) GroupId=domain users(0) MCS_label=N/A
   Priority=4294901759 Nice=0 Account=(null) QOS=(null)
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:00:01 TimeLimit=00:20:00 TimeMin=N/A
   SubmitTime=2026-11-28T13:03:46 EligibleTime=2026-11-28T13:03:46
   AccrueTime=2026-11-28T13:03:46
   StartTime=2026-11-28T13:03:47 EndTime=2026-11-28T13:23:47 Deadline=N/A
   PreemptEligibleTime=2026-11-28T13:03:47 PreemptTime=None
   SuspendTime=None SecsPreSuspend=0 LastSchedEval=2026-11-28T13:03:47 Scheduler=Backfill
   Partition=low AllocNode:Sid=localhost:6704
   ReqNodeList=n1 ExcNodeList=(null)
   NodeList=n1
   BatchHost=n1
   NumNodes=1 NumCPUs=2 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   TRES=cpu=2,node=1,billing=2
   Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=*
   MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0
   Features=(null) DelayBoot=00:00:00
   OverSubscribe=NO Contiguous=0 Licenses=(null) Network=(null)
   Command={command}
   WorkDir={folder}
   Comment={comment}
   StdErr={output}
   StdIn=/dev/null
   StdOut={output}
   Power=


"""
FACTS = JobFacts(
    state="RUNNING",
    reason="None",
    restarts=0,
    preempt_time_s=None,
    end_time_s=1795872227.0,
    may_requeue=True,
    is_batch=True,
    exit_code="0:0",
    partition="low",
    script="/home/a/job.sh",
    folder="/home/a",
    output="/home/a/out",
)
PLAIN = {
    "name": "x",
    "command": "/home/a/job.sh",
    "folder": "/home/a",
    "comment": "c",
    "output": "/home/a/out",
}
FAKES = (
    "sgdr lr=0.1 Restarts=5",
    "a Requeue=0 EndTime=1999-01-01T00:00:00 PreemptTime=1999-01-01T00:00:00 JobState=FAILED",
    "a\n   JobState=FAILED Reason=TimeLimit Dependency=(null)\n   Requeue=0 Restarts=9",
    "a\nJobState=FAILED\n   StartTime=None EndTime=None\n   PreemptTime=1999-01-01T00:00:00",
    "a\n   Command=/evil\n   WorkDir=/evil\n   StdOut=/evil\n   Partition=high",
    "a\n\n\nJobId=7 JobName=other",
    "=",
    "",
)


def test_a_record():
    assert parse_job(RECORD.format(**PLAIN)) == FACTS


@pytest.mark.parametrize("field", ["name", "comment"])
@pytest.mark.parametrize("text", FAKES)
def test_free_text_is_no_field(field, text):
    assert parse_job(RECORD.format(**PLAIN | {field: text})) == FACTS


@pytest.mark.parametrize("path", ["/a b/c=d", "/x Restarts=5/StdOut=7", "/ends in a blank/job"])
def test_paths_have_blanks_and_equals_signs(path):
    found = parse_job(RECORD.format(**PLAIN | {"command": path, "folder": path, "output": path}))
    assert found is not None
    assert (found.script, found.folder, found.output) == (path, path, path)
    assert found.restarts == 0


def test_a_path_with_a_line_end_is_not_known():
    path = "/a\nb/job.sh"
    found = parse_job(RECORD.format(**PLAIN | {"command": path, "folder": path, "output": path}))
    assert found is not None
    assert (found.script, found.folder, found.output) == (None, None, None)


def test_an_element_of_an_array_and_an_older_version():
    text = RECORD.format(**PLAIN).replace("JobId=12629", "JobId=12631 ArrayJobId=12629 TaskId=3")
    text = re.sub(r"PreemptEligibleTime=\S+ ", "", text)
    found = parse_job(text.replace("PreemptTime=None", "PreemptTime=2026-11-28T13:23:47"))
    assert found is not None
    assert found.preempt_time_s == FACTS.end_time_s


@pytest.mark.parametrize("text", ["", "x", "JobId=1 JobName=JobState=RUNNING", "JobState=RUNNING"])
def test_what_is_no_record(text):
    assert parse_job(text) is None


def test_the_address_of_a_node():
    node = "NodeName=n1 Arch=x86_64\n   Gres=gpu:2\n   NodeAddr=10.0.0.1 NodeHostName=vm Port=1\n"
    assert parse_node_addr(f"{node}   Comment=NodeAddr=10.9.9.9\n") == "10.0.0.1"
    assert parse_node_addr("") is None
