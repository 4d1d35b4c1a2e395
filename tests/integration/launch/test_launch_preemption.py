"""A preemption notice at any moment and to any process: 75, or a sentence that says why not."""

import os
import pathlib
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(120)

TWO = ("--nproc-per-node", "2")
NOTICES = ("SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1", "SIGUSR2")
WARM_AND_COLD = pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
BEFORE = (
    "before the first step of this start: there was nothing to save. The same command resumes the "
    "run."
)

READY_SOURCE = """
def ready():
    unfinished = pathlib.Path(f"unfinished-{rank}")
    unfinished.write_text(str(os.getpid()))
    unfinished.replace(f"ready-{rank}")
def deaf():
    for signum in (1, 2, 10, 12, 15): signal.signal(signum, signal.SIG_IGN)
"""
OURS = f"""{READY_SOURCE}
from launcher import beat
from launcher.contract.files.leaving import tell_leaving
from launcher.contract.environment import RankEnvironment
environment = RankEnvironment.from_environ(os.environ)
"""
"""What makes a script one that saves by itself, for the launcher."""
READY = ("ready-0", "ready-1")


def pid_of(launch, rank):
    return int((launch.folder / f"ready-{rank}").read_text())


def state_of(pid):
    """Return a process's state as /proc has it; None: it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def running(launch, source, *words):
    """Start two ranks and wait until both are where they say `ready()`."""
    launched = launch(*TWO, *words, launch.script(OURS + source))
    launched.wait_for_files(*READY, cwd=launch.folder)
    return launched


# ------------------------------------------------------------------ before the first step

DIES_EARLY = """
if rank == 1: signal.signal(signal.SIGINT, signal.SIG_DFL)
if rank == 0: deaf()
ready()
time.sleep(100)
"""


@pytest.mark.quick_cases(
    "SIGTERM-warm",
    "SIGTERM-cold",
    "SIGHUP-warm",
    "SIGINT-cold",
    "SIGINT-warm",
    "SIGUSR1-cold",
    "SIGUSR2-warm",
)
@WARM_AND_COLD
@pytest.mark.parametrize("name", NOTICES)
def test_a_notice_to_one_rank_before_the_first_step(launch, name):
    launched = running(launch, DIES_EARLY, "--max-restarts", "3")
    os.kill(pid_of(launch, 1), signal.Signals[name])
    assert launched.wait(50) == 75
    assert launched.said() == [f"relaunch: rank 1 was preempted ({name}) {BEFORE}"]


def test_python_takes_sigint_for_a_keyboard_interrupt_before_the_first_step(launch):
    launched = running(launch, "ready()\ntime.sleep(100)")
    os.kill(pid_of(launch, 1), signal.SIGINT)
    assert launched.wait(50) == 75
    assert launched.said() == [f"relaunch: rank 1 was preempted (SIGINT) {BEFORE}"]


@WARM_AND_COLD
def test_a_sigint_during_the_imports_waits_for_run_start(launch):
    """Python's own handler would end them with a traceback of KeyboardInterrupt."""
    source = (
        "ready()\ntime.sleep(1)\nfrom launcher import Run\nRun.start(lambda run: time.sleep(100))"
    )
    launched = running(launch, source)
    os.kill(pid_of(launch, 1), signal.SIGINT)
    assert launched.wait(100) == 75
    assert "KeyboardInterrupt" not in launched.stderr
    assert launched.said()[-1].endswith(BEFORE)


@WARM_AND_COLD
def test_without_run_a_sigint_reaches_the_script(launch):
    source = READY_SOURCE + (
        "try:\n ready()\n time.sleep(100)\nexcept KeyboardInterrupt:\n"
        " pathlib.Path('interrupted').touch()\n"
    )
    launched = launch(launch.script(source))
    launched.wait_for_files("ready-0", cwd=launch.folder)
    os.kill(pid_of(launch, 0), signal.SIGINT)
    assert launched.wait(50) == 0
    assert (launch.folder / "interrupted").exists()


def test_a_rank_that_leaves_before_the_first_step_takes_the_others_along(launch):
    source = "if rank == 0: deaf()\nready()\nif rank: sys.exit(75)\ntime.sleep(100)"
    launched = launch(*TWO, "--max-restarts", "1", launch.script(OURS + source))
    assert launched.wait(50) == 75
    assert launched.said() == [f"relaunch: rank 1 exited with 75 {BEFORE}"]


def test_a_notice_to_the_launcher_and_to_a_rank_before_the_first_step(launch):
    launched = running(launch, DIES_EARLY)
    launched.send(signal.SIGTERM)
    os.kill(pid_of(launch, 1), signal.SIGTERM)
    launched.send(signal.SIGUSR1)
    assert launched.wait(50) == 75
    assert launched.said()[-1] == f"relaunch: rank 1 was preempted (SIGTERM) {BEFORE}"


def test_a_notice_to_every_process_twice_before_the_first_step(launch):
    launched = running(launch, "ready()\ntime.sleep(100)")
    for _ in range(2):
        for pid in (launched.pid, *launched.processes_and_guardian()):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
    assert launched.wait(50) == 75


def test_grace_that_ends_before_the_first_step_loses_nothing(launch):
    launched = running(launch, "deaf()\nready()\ntime.sleep(100)", "--grace", "0.5")
    launched.send(signal.SIGTERM)
    assert launched.wait(50) == 75
    assert launched.said()[-1] == f"relaunch: ranks 0, 1 had to be ended {BEFORE}"


def test_grace_0_is_told_at_the_start(launch):
    launched = running(launch, "deaf()\nready()\ntime.sleep(100)", "--grace", "0")
    assert launched.said()[0].startswith("relaunch: --grace 0 leaves no time to save: ")
    launched.send(signal.SIGTERM)
    assert launched.wait(50) == 75


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("raise ValueError('mine')", 1),
        ("sys.exit(7)", 7),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139),
    ],
)
def test_a_failure_before_the_first_step_keeps_its_code(launch, source, code):
    # Not before the other one is ready: it would be ended before it had said so.
    both = "while not pathlib.Path('ready-0').exists(): time.sleep(0.01)"
    launched = running(launch, f"ready()\n{both}\nif rank == 1: {source}\ntime.sleep(100)")
    assert launched.wait(50) == code


def test_a_script_without_run_dies_of_a_notice_as_ever(launch):
    without = READY_SOURCE + "ready()\ntime.sleep(100)"
    launched = launch(*TWO, launch.script(without))
    launched.wait_for_files(*READY, cwd=launch.folder)
    os.kill(pid_of(launch, 1), signal.SIGTERM)
    assert launched.wait(50) == 143
    assert "rank 1 (local rank 1, pid" in launched.said()[0]


# ------------------------------------------------------------------ after the first step

TOLD = """
beat(5)
tell_leaving(environment.leaving_file, {code})
ready()
time.sleep(100)
"""


@pytest.mark.quick_cases(
    "SIGTERM-warm",
    "SIGHUP-cold",
    "SIGINT-warm",
    "SIGUSR1-cold",
    "SIGUSR2-warm",
    "SIGKILL-warm",
    "SIGKILL-cold",
)
@WARM_AND_COLD
@pytest.mark.parametrize("name", [*NOTICES, "SIGKILL"])
def test_a_rank_that_told_its_leaving_may_be_ended_by_any_signal(launch, name):
    source = "signal.signal(signal.SIGINT, signal.SIG_DFL)\n" + TOLD.format(code=75)
    launched = running(launch, source, "--max-restarts", "3")
    for rank in (0, 1):
        os.kill(pid_of(launch, rank), signal.Signals[name])
    assert launched.wait(50) == 75
    assert launched.said() == []


def test_a_rank_that_told_its_leaving_and_hangs_is_ended_by_grace(launch):
    source = "deaf()\n" + TOLD.format(code="75 * rank")
    launched = running(launch, source, "--grace", "0.5")
    launched.send(signal.SIGTERM)
    assert launched.wait(50) == 75
    assert launched.said()[-1] == "relaunch: --grace has expired: killing ranks 0, 1 now."


def test_a_rank_that_is_done_may_be_ended_too(launch):
    launched = running(launch, TOLD.format(code=0))
    for rank in (0, 1):
        os.kill(pid_of(launch, rank), signal.SIGTERM)
    assert launched.wait(50) == 0


PEERS = """
import torch.distributed as dist
dist.init_process_group("gloo")
beat(5)
ready()
if rank == 0:
    time.sleep(0.3)
    tell_leaving(environment.leaving_file, 75)
    os._exit(75)
{does}
"""


@pytest.mark.parametrize(
    ("does", "code"),
    [
        ("dist.barrier()", 75),
        ("try: dist.barrier()\nexcept RuntimeError: raise ValueError('mine') from None", 1),
        ("try: dist.barrier()\nexcept RuntimeError: sys.exit(7)", 7),
    ],
)
def test_a_rank_whose_peer_has_saved_and_left(launch, does, code):
    words = ("--max-restarts", "3") if code == 75 else ()
    launched = running(launch, PEERS.format(does=does), *words)
    assert launched.wait(80) == code, launched.stderr
    if code == 75:
        (line,) = launched.said()
        assert line.startswith("relaunch: rank 1 ended (")
        assert line.endswith(") because the others had saved and exited: this is not a failure.")


def test_a_peer_that_failed_is_a_failure(launch):
    source = PEERS.replace("tell_leaving(environment.leaving_file, 75)", "").replace("75", "7")
    launched = running(launch, source.format(does="dist.barrier()"))
    assert launched.wait(80) in (1, 7)


def test_steps_that_could_not_be_saved_are_told(launch):
    source = "signal.signal(signal.SIGTERM, signal.SIG_DFL)\nbeat(5)\nready()\ntime.sleep(100)"
    launched = running(launch, source)
    for rank in (0, 1):
        os.kill(pid_of(launch, rank), signal.SIGSTOP)  # so that the launcher's word comes first
    launched.send(signal.SIGTERM)
    while len(launched.said()) < 1:
        time.sleep(0.01)
    for rank in (0, 1):
        os.kill(pid_of(launch, rank), signal.SIGTERM)
        os.kill(pid_of(launch, rank), signal.SIGCONT)
    assert launched.wait(50) == 143
    assert launched.said()[-1] == (
        "relaunch: ranks 0, 1 ended by SIGTERM before the run was saved: step 5 was finished, and "
        "no checkpoint is known. Steps since the newest checkpoint will be repeated."
    )


def test_grace_that_ends_before_a_save_is_told_with_its_cost(launch):
    launched = running(launch, "deaf()\nbeat(5)\nready()\ntime.sleep(100)", "--grace", "0.5")
    launched.send(signal.SIGTERM)
    assert launched.wait(50) == 143
    assert (
        " ended by SIGKILL before the run was saved (--grace 0.5): step 5 was finished"
        in (launched.said()[-1])
    )


def test_a_command_of_the_scripts_own_that_died_of_the_notice_is_named(launch):
    source = """
import subprocess
signal.signal(signal.SIGTERM, lambda *_: None)
beat(5)
child = subprocess.Popen(["sleep", "100"])
pathlib.Path(f"child-{rank}").write_text(str(child.pid))
ready()
if child.wait(): raise subprocess.CalledProcessError(child.returncode, child.args)
"""
    launched = running(launch, source)
    launched.send(signal.SIGTERM)
    launched_said = launched.said
    while not launched_said():
        time.sleep(0.01)
    for rank in (0, 1):
        os.kill(int((launch.folder / f"child-{rank}").read_text()), signal.SIGTERM)
    assert launched.wait(50) == 1
    assert any(
        line.startswith("relaunch: the command '['sleep', '100']', which the script had started, ")
        for line in launched.said()
    )


# ------------------------------------------------------------------ between two attempts

FAILS = """
if int(os.environ["TORCHELASTIC_RESTART_COUNT"]) >= 1:
    pathlib.Path("failing").touch()
    beat(6)
    sys.exit(8)
beat(5)
sys.exit(7)
"""


@pytest.mark.quick_cases(
    "True-SIGTERM", "True-SIGINT", "False-SIGHUP", "False-SIGUSR1", "True-SIGUSR2"
)
@pytest.mark.parametrize("name", NOTICES)
@pytest.mark.parametrize("ours", [True, False])
def test_a_notice_while_a_restart_is_waited_for(launch, name, ours):
    source = FAILS if ours else FAILS.replace("beat(6)", "").replace("beat(5)", MEETS)
    source = (OURS if ours else "") + source
    launched = launch("--max-restarts", "5", launch.script(source))
    while not any("waiting 1 s before" in line for line in launched.said()):
        assert not launched.ended(), launched.stderr
        time.sleep(0.005)
    launched.send(signal.Signals[name])
    launched.send(signal.SIGTERM)
    assert launched.wait(50) == 75
    assert launched.said()[-1] == (
        f"relaunch: {name}: preempted before restart 2; the same command resumes the run."
    )


MEETS = "import torch.distributed as dist; dist.init_process_group('gloo')"


@pytest.mark.parametrize("while_others_end", [True, False])
def test_a_notice_after_a_failure_that_would_be_restarted_is_75(launch, while_others_end):
    """The rank that failed takes the others along; the notice comes meanwhile, or just after."""
    source = """
beat(5)
ready()
if int(os.environ["TORCHELASTIC_RESTART_COUNT"]):  # the test was late
    signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
    time.sleep(100)
while not pathlib.Path("ready-0").exists(): time.sleep(0.01)
if rank == 1: raise ValueError("a fault")
deaf()
pathlib.Path("deaf").touch()
time.sleep(100)
"""
    launched = launch(
        *TWO, "--max-restarts", "2", "--shutdown-timeout", "4", launch.script(OURS + source)
    )
    launched.wait_for_files(*READY, "deaf", cwd=launch.folder)
    failed = pid_of(launch, 1)
    while state_of(failed) not in ("Z", None):
        time.sleep(0.02)
    if while_others_end:
        time.sleep(1.0)  # the failure is seen by then, and rank 0 has four seconds
    while not while_others_end and state_of(failed) is not None:  # it is reaped at the end
        time.sleep(0.02)
    launched.send(signal.SIGTERM)
    assert launched.wait(50) == 75, launched.stderr
    assert "ValueError: a fault" in launched.stderr
    is_late = "starting the ranks again" in launched.stderr
    assert is_late or "preempted before restart 1; the same command" in launched.stderr
