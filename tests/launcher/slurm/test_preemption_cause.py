"""Cause and deadline of a warning, from Slurm's answer at that moment."""

import signal
import time
from pathlib import Path

import pytest

from launcher.contract.preemption import PreemptionNotice
from launcher.slurm.job_info import JobFacts
from launcher.slurm.preemption_cause import SlurmAdvice, warned

NOW = 1000.0
END = 1020.0


def facts(state="RUNNING", **more):
    values = {"reason": "None", "restarts": 0, "preempt_time_s": None, "end_time_s": END}
    return JobFacts(state=state, **(values | more))


@pytest.mark.parametrize(
    ("answer", "cause", "deadline"),
    [
        (facts(preempt_time_s=NOW), "preempted by Slurm", END),
        (facts(), "SIGUSR1", END),
        (facts("COMPLETING", restarts=1), "requeued by Slurm", NOW + 30),
        (facts("COMPLETING", reason="TimeLimit"), "time limit", NOW + 30),
        (facts("COMPLETING", preempt_time_s=NOW), "end of the grace period", NOW + 30),
        (facts("COMPLETING"), "scancel", NOW + 30),
    ],
)
def test_table(answer, cause, deadline):
    told = warned(answer, signal.SIGUSR1, now=NOW, own_restarts=0, kill_wait_s=30.0)
    assert told == PreemptionNotice(cause=cause, deadline=deadline)


def test_an_unknown_wait_gives_no_deadline():
    told = warned(facts("COMPLETING"), 15, now=NOW, own_restarts=0, kill_wait_s=None)
    assert told.deadline is None


def ask(tmp_path: Path, monkeypatch, script: str) -> PreemptionNotice | None:
    program = tmp_path / "scontrol"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    advice = SlurmAdvice("12", own_restarts=0, kill_wait_s=30.0)
    assert advice.answer() is None
    advice.ask(signal.SIGTERM)
    process = advice._process
    assert process is not None
    end = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    told = advice.answer()
    assert advice.answer() is None, "it answers once"
    return told


def test_an_answer_comes_even_if_the_whole_step_is_signalled(tmp_path, monkeypatch):
    lines = ("JobId=12 JobName=x", "UserId=a", "JobState=COMPLETING", "Requeue=1 Restarts=1")
    shown = "\\n   ".join((*lines, "Partition=low"))
    told = ask(tmp_path, monkeypatch, f"kill -TERM $$; printf '{shown}\\n'")
    assert told is not None
    assert told.cause == "requeued by Slurm"


def test_a_failing_scontrol_gives_no_answer(tmp_path, monkeypatch):
    assert ask(tmp_path, monkeypatch, "exit 1") is None


def test_without_scontrol_there_is_no_answer(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    advice = SlurmAdvice("12", own_restarts=0, kill_wait_s=30.0)
    advice.ask(signal.SIGTERM)
    assert advice.answer() is None
