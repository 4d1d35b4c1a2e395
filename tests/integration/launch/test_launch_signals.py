"""Signals to the launcher: a warning is passed on once, and is not a death."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.contract.launcher_signals import BEFORE_RANKS_S, SAME_KEYPRESS_S
from launcher.workers.worker import catches

pytestmark = pytest.mark.timeout(120)

TWO = ("--nproc-per-node", "2")
ROOT = str(Path(__file__).parents[3])

LEAVES_WITH = """
seen = []
def handle(signum, frame):
    seen.append(signum)
    with open(f"told-{{rank}}", "a") as file: file.write(signal.Signals(signum).name + "\\n")
signal.signal(signal.SIGTERM, handle)
signal.signal(signal.SIGINT, handle)
pathlib.Path(f"ready-{{rank}}").touch()
while not seen: time.sleep(0.01)
time.sleep(0.5)
sys.exit({code})
"""
WAITS = """
pathlib.Path(f"ready-{rank}").touch()
time.sleep(60)
"""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAITS
READY = ("ready-0", "ready-1")


@pytest.mark.quick_cases(
    "SIGTERM-75-warm",
    "SIGTERM-0-cold",
    "SIGUSR1-75-cold",
    "SIGUSR2-75-warm",
    "SIGUSR2-0-warm",
    "SIGHUP-75-warm",
    "SIGINT-75-cold",
    "SIGINT-0-warm",
)
@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
@pytest.mark.parametrize("code", [75, 0])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGINT"])
def test_warning_is_forwarded_once_as_sigterm(launch, name, code):
    launched = launch(*TWO, launch.script(LEAVES_WITH.format(code=code)))
    launched.wait_for_files(*READY, cwd=launch.folder)
    first = time.monotonic()
    for _ in range(3):
        # Ctrl-C twice and not close to each other means to kill.
        if name != "SIGINT" or time.monotonic() - first < SAME_KEYPRESS_S / 2:
            with contextlib.suppress(ProcessLookupError):  # it has done its work by now
                launched.send(signal.Signals[name])
        time.sleep(0.02)
    assert launched.wait() == 75
    for rank in (0, 1):
        assert (launch.folder / f"told-{rank}").read_text() == "SIGTERM\n"
    cause = "Ctrl-C" if name == "SIGINT" else name
    line, *after = launched.said()
    assert line.startswith(f"relaunch: {cause}: asking all 2 ranks to save and exit")
    # Whether a script without Run was done, or has only saved, nobody but the script knows.
    told = "the script exited with 75" if code else f"the script handled {name}"
    assert [text.removeprefix("relaunch: ").startswith(told) for text in after] == [True]


def test_cause_and_deadline_travel_with_the_warning(launch):
    script = launch.script(
        """
        from launcher.contract.environment import RankEnvironment
        from launcher.contract.preemption import PreemptionFlag
        environment = RankEnvironment.from_environ(os.environ)
        flag = PreemptionFlag(environment.warning_file)
        with flag.install():
            pathlib.Path(f"ready-{rank}").touch()
            while not flag.requested: time.sleep(0.01)
        print(flag.cause, 0 < flag.deadline - time.time() <= 30)
        """
    )
    launched = launch("--grace", "30", script)
    launched.wait_for_files("ready-0", cwd=launch.folder)
    launched.send(signal.SIGUSR1)
    assert launched.wait() == 0
    assert launched.stdout == "SIGUSR1 True\n"


def test_warning_waits_for_the_handler_of_a_rank_of_ours(launch):
    script = launch.script(
        """
        pathlib.Path("importing").touch()
        time.sleep(1.5)
        from launcher.contract.preemption import PreemptionFlag
        flag = PreemptionFlag()
        with flag.install():
            while not flag.requested: time.sleep(0.01)
        sys.exit(75)
        """
    )
    launched = launch(script)
    launched.wait_for_files("importing", cwd=launch.folder)
    launched.send(signal.SIGTERM)
    assert launched.wait() == 75


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 138), ("SIGINT", 130)])
def test_script_without_a_handler_ends_by_the_warning(launch, name, code):
    launched = launch(*TWO, "--max-restarts", "3", launch.script(WAITS))
    launched.wait_for_files(*READY, cwd=launch.folder)
    launched.send(signal.Signals[name])
    assert launched.wait() == code
    assert "ended on SIGTERM: nothing in the script handles it. Its work in" in launched.stderr
    assert "docs/launching.md has the lines that save at a notice" in launched.said()[-1]
    assert "failed as a result" not in launched.stderr


@pytest.mark.parametrize(
    ("handler", "code"), [("lambda *_: asked.append(1)", 75), ("signal.SIG_IGN", 0)]
)
def test_a_script_that_breaks_off_with_0_is_started_again_and_one_that_ignores_it_is_done(
    launch, handler, code
):
    script = launch.script(
        f"""
        asked = []
        signal.signal(signal.SIGTERM, {handler})
        pathlib.Path(f"ready-{{rank}}").touch()
        until = time.monotonic() + 1.0
        while time.monotonic() < until: time.sleep(0.01)
        """
    )
    launched = launch(*TWO, "--max-restarts", "3", script)
    launched.wait_for_files(*READY, cwd=launch.folder)
    launched.send(signal.SIGTERM)
    assert launched.wait() == code
    assert ("handled SIGTERM and exited with 0" in launched.stderr) == (code == 75)


def test_no_deadline_of_its_own(launch):
    launched = launch(*TWO, launch.script(DEAF))
    launched.wait_for_files(*READY, cwd=launch.folder)
    launched.send(signal.SIGTERM)
    time.sleep(3)
    assert not launched.ended()
    launched.send(signal.SIGKILL)
    launched.wait()


def test_grace_ends_in_sigkill(launch):
    launched = launch(*TWO, "--grace", "0.5", launch.script(DEAF))
    launched.wait_for_files(*READY, cwd=launch.folder)
    sent = time.monotonic()
    launched.send(signal.SIGTERM)
    assert launched.wait() == 143
    assert time.monotonic() - sent >= 0.5
    assert "--grace has expired: killing ranks 0, 1 now." in launched.stderr


def test_second_ctrl_c_kills_now(launch):
    launched = launch(*TWO, launch.script(DEAF))
    launched.wait_for_files(*READY, cwd=launch.folder)
    launched.send(signal.SIGINT)
    time.sleep(0.02)
    launched.send(signal.SIGINT)
    time.sleep(SAME_KEYPRESS_S + 0.2)
    assert not launched.ended(), "one Ctrl-C that arrives twice is one"
    launched.send(signal.SIGINT)
    assert launched.wait() == 130
    first, second = launched.said()
    assert first.endswith("Press Ctrl-C again to kill now.")
    assert second == "relaunch: Ctrl-C again: killing ranks 0, 1 now."


def test_ignored_sighup_stays_ignored(launch):
    launched = launch(launch.script(LEAVES_WITH.format(code=0)), ignored=("SIGHUP",))
    launched.wait_for_files("ready-0", cwd=launch.folder)
    launched.send(signal.SIGHUP)
    time.sleep(0.5)
    assert not (launch.folder / "told-0").exists()
    launched.send(signal.SIGTERM)
    assert launched.wait() == 75


def test_ranks_are_in_sessions_of_their_own(launch):
    script = launch.script("print(os.getsid(0) == os.getpid() == os.getpgid(0))")
    launched = launch(*TWO, script)
    assert launched.wait() == 0
    assert sorted(launched.stdout.splitlines()) == ["True", "[rank 1] True"]


@pytest.mark.quick_cases(
    "SIGTERM-True", "SIGTERM-False", "SIGHUP-False", "SIGINT-True", "SIGUSR1-True", "SIGUSR2-False"
)
@pytest.mark.parametrize("uses_run", [True, False])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_a_notice_before_the_ranks_exist(name, uses_run, tmp_path):
    # A launcher with an import of its own: this is about the seconds which that takes.
    word = "from launcher import Run\n" if uses_run else ""
    (tmp_path / "train.py").write_text(f"{word}open('started', 'w').close()\n")
    process = start_of_its_own("import os; " + MAIN, tmp_path)
    wait_until_handled(process, tmp_path)
    time.sleep(0.1)
    for signum in (name, name, "SIGTERM"):
        process.send_signal(signal.Signals[signum])
        time.sleep(0.01)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75
    assert stderr == (
        f"relaunch: {name} came before the ranks were started; the same command starts the run.\n"
    )
    assert not (tmp_path / "started").exists()


def test_a_second_ctrl_c_before_the_ranks_exist_ends_the_launcher_at_once(tmp_path):
    (tmp_path / "train.py").write_text("open('started', 'w').close()\n")
    process = start_of_its_own(MAIN, tmp_path)
    wait_until_handled(process, tmp_path)
    process.send_signal(signal.SIGINT)
    time.sleep(BEFORE_RANKS_S + 0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    # Where the import was over by then, the first one has done its work.
    assert process.returncode in (-signal.SIGINT, 75), stderr
    assert not (tmp_path / "started").exists()


LATE = """
import ctypes
libc = ctypes.CDLL(None)
libc.on_exit(getattr(libc, "raise"), None)  # it is called with the exit code, after Python's end
from launcher.cli import main
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGUSR1", "SIGUSR2"])
def test_a_notice_while_python_ends_changes_no_code(name, tmp_path):
    """The rank's code is the number of the signal, which comes when no handler is left."""
    code = int(signal.Signals[name])
    words = f"main(['--no-python', 'sh', '-c', 'exit {code}'])"
    process = start_of_its_own(LATE + words, tmp_path)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr


MAIN = "from launcher.cli import main; open('main', 'w').close(); main()"


def start_of_its_own(source, folder):
    """Start a launcher that shares no import."""
    return subprocess.Popen(
        [sys.executable, "-c", source, "train.py"],
        cwd=folder,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
        text=True,
    )


def wait_until_handled(process, folder):
    status = Path(f"/proc/{process.pid}/status")
    while not (folder / "main").exists() or not catches(status.read_text(), signal.SIGUSR2):
        time.sleep(0.005)
