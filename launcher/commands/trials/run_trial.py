"""One short run of a script: started as `relaunch` in its own folder, bounded in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ...contract.environment import OWN_NAMES
from ...contract.own_command import OWN_START
from ...contract.trial import TRIAL, TrialSettings
from ...errors import LauncherError
from ...workers import exec_worker

OUTPUT = "output.log"
"""A file beside the run folder: what the launcher and its ranks have printed."""
RUN, TRACE = "run", "trace"
RUN_DIR_WORD = "{run_dir}"
"""In an argument of a script: its run folder, which each trial has of its own."""
_LEFT_S = 10.0
"""After SIGTERM, before SIGKILL: for a launcher whose time is over."""
_LOOK_S = 0.05
TIMED_OUT = -1
"""The exit code of a trial that was ended because its time was over."""
_HIDDEN = {
    *OWN_NAMES,
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_ERROR_FILE"),
}


class StoppedError(LauncherError):
    """A signal came: what was begun is ended, and nothing is compared."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"{signal.Signals(signum).name}: the runs are not finished.")
        self.exit_code = 128 + signum


class LauncherProcess(Protocol):
    """What is used of the `subprocess.Popen` of a launcher."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return the exit code, or minus the signal that ended it; None while it runs."""

    def wait(self, timeout: float) -> int:
        """Wait for its end, at most `timeout` seconds, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is run, and where."""

    name: str
    """For people: "ddp on 2 ranks"."""
    words: tuple[str, ...]
    """The script and its arguments, and options of relaunch before it."""
    ranks: int
    strategy: str
    folder: Path
    """Its own; the run folder is below it."""
    settings: TrialSettings
    names_strategy: bool = True
    """False: the script decides, and would refuse the option."""
    timeout_s: float = 120.0
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the environment, beside the inherited ones."""
    network: str | None = None
    """The file of the network namespace in which it runs; None: that of this process."""

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return self.folder / RUN

    @property
    def output(self) -> Path:
        """What was printed."""
        return self.folder / OUTPUT


def command_of(trial: Trial) -> list[str]:
    """Return the command of a trial. Pure."""
    entering = () if trial.network is None else ("nsenter", f"--net={trial.network}")
    return [*entering, sys.executable, "-c", OWN_START, *words_of(trial)]


def words_of(trial: Trial) -> list[str]:
    """Return what follows `relaunch` in the command of a trial. Pure."""
    return [
        *("--run-dir", str(trial.run_dir), "--nproc-per-node", str(trial.ranks)),
        *(("--strategy", trial.strategy) if trial.names_strategy else ()),
        *(word.replace(RUN_DIR_WORD, str(trial.run_dir)) for word in trial.words),
    ]


def environ_of(trial: Trial, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a trial: what this process has, without a rank's own. Pure.

    The trial's variables come first: a forked rank shows others no more than there is room for.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        # A trial is started on this machine, also inside of a job.
        if name not in _HIDDEN and not name.startswith(("SLURM_", "PET_"))
    }
    return dict(trial.variables) | kept | dict(trial.variables) | {TRIAL: trial.settings.text()}


def start_trial(trial: Trial) -> subprocess.Popen[bytes]:
    """Start a trial, in a session of its own; its launcher ends when this process does.

    Raises:
        OSError: its folder cannot be written.
    """
    trial.folder.mkdir(parents=True, exist_ok=True)
    with trial.output.open("ab") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", exec_worker.__file__, str(os.getpid())),
                *command_of(trial),
            ],
            env=environ_of(trial, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_trial(
    trial: Trial,
    stops: Callable[[], int | None] = lambda: None,
    start: Callable[[Trial], LauncherProcess] = start_trial,
) -> int:
    """Run a trial to its end; return its exit code, or TIMED_OUT.

    A second call resumes the run in the same folder.

    Args:
        trial: what is run.
        stops: returns the signal that asks this process to end, if there is one.
        start: starts the launcher.

    Raises:
        OSError: its folder cannot be written.
        StoppedError: this process is to end; the trial has ended.
    """
    process = start(trial)
    end_s = time.monotonic() + trial.timeout_s
    try:
        while (code := process.poll()) is None:
            if (signum := stops()) is not None:
                raise StoppedError(signum)
            if time.monotonic() > end_s:
                return TIMED_OUT
            time.sleep(_LOOK_S)
        return code
    finally:
        if process.returncode is None:
            end_trial(process)


def end_trial(process: LauncherProcess) -> None:
    """End a trial's launcher and wait for it; its guardian ends what is left of its ranks."""
    for signum, wait_s in ((signal.SIGTERM, _LEFT_S), (signal.SIGKILL, _LEFT_S)):
        with suppress(ProcessLookupError):
            os.kill(process.pid, signum)  # not reaped yet: nobody else has its number
        end = time.monotonic() + wait_s
        while process.poll() is None and time.monotonic() < end:
            time.sleep(_LOOK_S)
        if process.poll() is not None:
            return


def sentences(trial: Trial, kind: str) -> list[str]:
    """Return what a trial has printed as `relaunch: KIND: ...` ("error", "warning"), in order."""
    mark, found = f"relaunch: {kind}: ", []
    text = trial.output.read_text(encoding="utf-8", errors="replace") if _is_there(trial) else ""
    for line in text.splitlines():
        if mark in line:
            found.append(line.partition(mark)[2].strip())
    return list(dict.fromkeys(found))


def _is_there(trial: Trial) -> bool:
    return trial.output.exists()


def script_of(words: Sequence[str]) -> str | None:
    """Return the first word that is a Python file; None where there is none. Pure."""
    return next((word for word in words if word.endswith(".py")), None)
