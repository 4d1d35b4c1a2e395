"""Calls have a bound, outlive the signals of a step that ends, and tell why they failed."""

import signal
import sys
import threading
import time

import pytest

from launcher.schedulers.slurm.job_info import parse_duration, parse_job, parse_site, parse_time
from launcher.schedulers.slurm.scontrol import Answer, Scontrol, call, fixed_environment

PARTITION = """\
PartitionName=low
   AllowGroups=domain users,GraceTime=7 AllowAccounts=ALL AllowQos=ALL
   DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=20 Hidden=NO
   MaxNodes=UNLIMITED MaxTime=01:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED
"""
CONFIG = "KillWait                = 6 sec\nTaskPlugin              = task/affinity\n"


def python(code: str, bound_s: float = 30.0) -> Answer:
    return call([sys.executable, "-c", code], bound_s)


def test_an_answer_and_a_refusal() -> None:
    assert python("print('x')") == Answer(text="x\n")
    failed = python("import sys; print('a\\nwhy', file=sys.stderr); sys.exit(1)")
    assert failed.problem == "why"
    assert call(["no-such-command"]).problem == "there is no no-such-command here"


def test_a_call_has_a_bound() -> None:
    began = time.monotonic()
    assert "did not answer within 0.5 s" in python("import time; time.sleep(60)", 0.5).problem
    assert time.monotonic() - began < 30


def test_a_signal_to_every_process_does_not_end_the_call() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); print('alive')"
    assert python(code) == Answer(text="alive\n")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    assert threading.current_thread() is threading.main_thread()


def test_no_answer_is_no_fact() -> None:
    silent = Scontrol(lambda words, bound_s: Answer(text="", problem="down"))
    assert silent.job("12") is None
    assert silent.problem == "down"
    assert silent.site("low").grace_s is None
    assert silent.hostnames("n[1-2]") == ()
    assert not silent.requeue("12")


def test_a_site() -> None:
    site = parse_site(PARTITION, CONFIG)
    assert (site.grace_s, site.kill_wait_s, site.binds_cpus) == (20.0, 6.0, True)


def test_durations_and_times() -> None:
    texts = ("30", "05:00", "1:00:00", "1-12:00:00", "UNLIMITED", "", None)
    assert [parse_duration(t) for t in texts] == [30, 300, 3600, 129600, None, None, None]
    assert parse_time("Unknown") is None
    assert parse_time("1970-01-02T00:00:00") == 86400.0


def test_what_is_no_job() -> None:
    assert parse_job("slurm_load_jobs error: Invalid job id specified") is None


def test_the_profile_does_not_steer_slurms_commands() -> None:
    """The variables of scontrol's and sinfo's manual pages, except those that reach the cluster."""
    reaching = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_JWT": "t", "PATH": "/bin", "HOME": "/h"}
    steering = (
        *("SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN", "SLURM_CLUSTERS", "SLURM_DEBUG_FLAGS"),
        *("SCONTROL_ALL", "SCONTROL_FEDERATION", "SCONTROL_LOCAL", "SINFO_PARTITION"),
        *("SLURM_TOPO_LEN", "SQUEUE_FORMAT", "SBATCH_CLUSTERS", "LC_ALL", "TZ"),
    )
    found = fixed_environment({**reaching, **dict.fromkeys(steering, "other")})
    assert found == {**reaching, "SLURM_TIME_FORMAT": "standard", "TZ": "UTC0", "LC_ALL": "C"}


def test_a_command_runs_in_the_fixed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    monkeypatch.setenv("SLURM_CLUSTERS", "other")
    shown = python(
        "import os; print(os.environ['SLURM_TIME_FORMAT'], 'SLURM_CLUSTERS' in os.environ)"
    )
    assert shown.text == "standard False\n"
