"""One trial: a launched run in its own folder, watched while it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ...contract.launcher_signals import SignalInbox
from ...contract.own_command import OWN_START
from ...run_folder.jsonl import METRICS
from ...run_folder.lines.fields import is_metric
from ...run_folder.lines.follow import Follower, is_newer_metric
from ...run_folder.plain_files import open_plain
from ...workers import exec_worker
from .space import Parameters

LOOK_S = 0.2
OUTPUT = "output.log"
"""A file in the trial's folder: what its launcher has printed."""
_OURS = "relaunch: "
_ERROR = f"{_OURS}error: "
PRUNED = "pruned"
"""A file in the trial's folder: it was ended as hopeless, and is not resumed."""


def command_of(words: Sequence[str], parameters: Parameters, folder: Path) -> list[str]:
    """Return the command of a trial: this launcher, its run folder, the script's settings; pure."""
    options = [f"--{name}={value}" for name, value in parameters.items()]
    return [sys.executable, "-c", OWN_START, "--run-dir", str(folder), *words, *options]


def run_trial(
    command: Sequence[str],
    folder: Path,
    *,
    monitor: str,
    inbox: SignalInbox,
    is_hopeless: Callable[[int, float], bool],
) -> int:
    """Run a trial to its end; return its exit code.

    A warning to the sweep is passed on, once; a hopeless trial is asked to leave. When the sweep is
    killed, so is the trial.
    """
    folder.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with os.fdopen(open_plain(folder / OUTPUT, flags), "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", exec_worker.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    having = (json.dumps(monitor).encode(),)  # of a long history, the evaluations alone
    records = Follower(folder / METRICS, is_metric, is_newer_metric, having=having)
    was_told = False
    while process.poll() is None:
        if not was_told and inbox.warned_by is not None:
            process.send_signal(signal.SIGTERM)
            was_told = True
        if inbox.kill_now:
            process.kill()  # its guardian ends the ranks
        new = []
        with suppress(OSError):  # later, when the disk answers again
            new = [r for r in records.news() if monitor in r]
        if not was_told and any(is_hopeless(r["step"], r[monitor]) for r in new):
            os.close(open_plain(folder / PRUNED, os.O_WRONLY | os.O_CREAT))
            process.send_signal(signal.SIGTERM)
            was_told = True
        time.sleep(LOOK_S)
    return process.returncode


def last_error(folder: Path) -> str:
    """Return the last sentence with which a trial was refused, and else where to look for it.

    A script that does not know an option refuses it in words of its own.
    """
    path = folder / OUTPUT
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    options = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    if options:
        return options[-1]
    own = [line for line in lines if line.strip() and not line.startswith(_OURS)]
    return f"{own[-1]} (see {path})" if own else f"see {path}."
