"""Cause and deadline of a warning, from Slurm's answer at that moment."""

import signal
import time
from pathlib import Path

import pytest

from launcher.contract.files.end_time import ToldEnd
from launcher.contract.preemption import PreemptionNotice
from launcher.schedulers.slurm.job_info import JobFacts
from launcher.schedulers.slurm.preemption_cause import SlurmAdvice, moved_text, pause_s, warned

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


@pytest.mark.parametrize(
    ("left_s", "pause"), [(None, 60.0), (3600.0, 60.0), (100.0, 25.0), (8.0, 5.0), (-30.0, 5.0)]
)
def test_the_end_is_asked_for_more_often_as_it_comes_near(left_s, pause):
    assert pause_s(left_s) == pause


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (1100.0, 1100.0, ""),
        (1100.0, 1101.0, ""),
        (None, None, ""),
        (1100.0, 1820.0, "Slurm has moved the end of the job's time: it ends in 13:40 min, "),
        (1100.0, 1820.0, "12:00 min later than before."),
        (1100.0, 1060.0, "it ends in 60 s, 40 s earlier than before."),
        (1100.0, None, "Slurm has lifted the limit of the job's time."),
        (None, 1060.0, "Slurm has limited the job's time: it ends in 60 s."),
    ],
)
def test_what_is_told_of_an_end_that_moves(before, after, text):
    told = moved_text(before, after, NOW)
    assert text in told
    assert bool(text) == bool(told)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Let `scontrol show job` print a record with this end."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def prints(end: str, state: str = "RUNNING", preempt: str = "None") -> None:
        lines = (
            *("JobId=12 JobName=x", "UserId=a", f"JobState={state} Reason=None", "Requeue=1"),
            *(f"StartTime=None EndTime={end}", f"PreemptTime={preempt}", "Partition=low"),
        )
        program = tmp_path / "scontrol"
        program.write_text("#!/bin/sh\ncat <<'X'\n" + "\n   ".join(lines) + "\nX\n")
        program.chmod(0o755)

    return prints


def end_time_of(advice: SlurmAdvice):
    """Wait for the answer to the question that is due, if one is."""
    if (found := advice.end_time()) is not None:
        return found
    if advice._process is None:
        return None
    advice._process.wait(30)
    return advice.end_time()


def test_the_end_is_asked_for_again_and_told_where_it_moved(scontrol):
    now = [1000.0]
    advice = SlurmAdvice(
        "12", own_restarts=0, kill_wait_s=30.0, end_time_s=1600.0, clock=lambda: now[0]
    )
    scontrol("1970-01-01T00:26:40")  # 1600
    assert end_time_of(advice) is None, "what was said at the start is not asked again at once"
    now[0] = 1060.0
    assert end_time_of(advice) == (ToldEnd(end_time_s=1600.0, asked_at_s=1060.0), "")
    scontrol("1970-01-01T00:30:00")
    now[0] = 1120.0
    told, text = end_time_of(advice)
    assert told.end_time_s == 1800.0
    assert text.endswith("it ends in 11:20 min, 3:20 min later than before.")
    scontrol("1970-01-01T00:19:00", preempt="1970-01-01T00:18:40")
    now[0] = 1180.0
    assert end_time_of(advice) is None, "the grace's end is no limit of the job's time"
    scontrol("Unknown")
    now[0] = 1240.0
    assert end_time_of(advice)[0].end_time_s is None


def test_a_warning_looks_at_the_end_too(scontrol):
    advice = SlurmAdvice("12", own_restarts=0, kill_wait_s=30.0, end_time_s=NOW)
    scontrol("2033-05-18T03:33:20")
    advice.ask(signal.SIGUSR1)
    assert advice._process is not None
    advice._process.wait(30)
    told = advice.answer()
    assert told == PreemptionNotice(cause="SIGUSR1", deadline=2e9)
    found = advice.end_time()
    assert found is not None
    assert found[0].end_time_s == 2e9
    assert advice.end_time() is None


def test_a_scontrol_that_hangs_is_given_up(tmp_path, monkeypatch):
    program = tmp_path / "scontrol"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    now = [1000.0]
    advice = SlurmAdvice("12", own_restarts=0, kill_wait_s=None, clock=lambda: now[0])
    now[0] = 1060.0
    assert advice.end_time() is None
    process = advice._process
    assert process is not None
    now[0] = 1080.0
    assert advice.end_time() is None
    assert process.wait(30) == -signal.SIGKILL
    assert advice.end_time() is None
    assert advice._process is None
