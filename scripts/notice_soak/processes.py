"""The processes of a trial: started, told, waited for and ended, by their mark and nothing else."""

import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.commands.rehearse.processes import Marked, has_mark, send, wait_until
from launcher.contract.launcher_signals import SAME_KEYPRESS_S

from .trials import PHASES, Setting

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("train.py")
MARK = "NOTICE_SOAK_MARK"
COMMAND = (
    "from signal import SIG_DFL, SIGHUP, SIGINT, default_int_handler, signal; "
    "signal(SIGHUP, SIG_DFL); signal(SIGINT, default_int_handler); "
    "from launcher.cli import main; main()"
)
"""`relaunch`, as in a shell also where these trials run under nohup or in the background."""


@dataclass(frozen=True, kw_only=True)
class Started(Marked):
    """A launcher, and how to find what belongs to it."""

    folder: Path
    """Of its output."""
    marks: Path
    """Of the files by which the script tells where it is."""

    def told(self) -> str:
        """Return all that it has printed."""
        return "".join((self.folder / name).read_text() for name in ("stdout", "stderr"))

    def listens(self) -> bool:
        """Tell whether the launcher catches SIGTERM, or keeps it for later."""
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            masks = [
                int(line.split()[1], 16)
                for line in status.splitlines()
                if line.startswith(("SigCgt:", "SigBlk:"))
            ]
            return any(mask >> (signal.SIGTERM - 1) & 1 for mask in masks)
        return False


_running: list[Started] = []
_stopped = threading.Event()


def kill_all() -> None:
    """End the runs that go on in other threads, and let these start no other ones."""
    _stopped.set()
    for run in tuple(_running):
        run.kill()


@contextmanager
def started(
    setting: Setting,
    folder: Path,
    run_dir: Path,
    *,
    options: tuple[str, ...] = (),
    place: dict[str, Any] | None = None,
    environ: dict[str, str] | None = None,
) -> Iterator[Started]:
    """Start the command in a folder; whatever is left of it at the end is killed.

    Args:
        setting: how.
        folder: of its output and its marks; made here.
        run_dir: the run folder.
        options: more of the launcher's.
        place: where the script is slow.
        environ: more of the environment.
    """
    if _stopped.is_set():
        raise RuntimeError("the trials are given up")
    folder.mkdir()
    marks = folder / "marks"
    marks.mkdir()
    mark = uuid.uuid4().hex
    # Nowhere deep: the name of a Unix socket in it must stay below 108 bytes.
    scratch = tempfile.mkdtemp(prefix="notice-")
    words = [*setting.options(), *options, "--run-dir", str(run_dir), str(SCRIPT)]
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env={
                MARK: mark,  # the first: a forked rank shows no more than there is room for
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1",
                "TMPDIR": scratch,
                "NOTICE_SOAK_MARKS": str(marks),
                "NOTICE_SOAK_WORKERS": str(setting.workers),
                "NOTICE_SOAK_PLACE": json.dumps(place or {}),
                **(environ or {}),
            },
        )
    run = Started(process=process, mark=f"{MARK}={mark}", folder=folder, marks=marks)
    _running.append(run)
    try:
        yield run
    finally:
        run.kill()
        process.wait()
        _running.remove(run)
        shutil.rmtree(scratch, ignore_errors=True)


def reach(run: Started, phase: str, bound_s: float, *, restarted: bool = False) -> bool:
    """Wait until a run is in a phase, or a rank is started again; return whether it came there."""
    assert phase in PHASES
    if phase == "start":
        return wait_until(lambda: run.listens() or run.has_ended(), bound_s) and not run.has_ended()
    pattern = "steps-*-1" if restarted else "at-*"
    wait_until(lambda: any(run.marks.glob(pattern)) or run.has_ended(), bound_s)
    return any(run.marks.glob(pattern))


def tell(run: Started, target: str, rank: int, signals: tuple[str, ...], rng: random.Random) -> int:
    """Send signals to the launcher, to one rank, or to every process; return how many arrived."""
    if target == "rank":
        wait_until(lambda: run.rank(rank) is not None or run.has_ended(), 10.0)
    whom: Callable[[], list[int | None]] = {
        "launcher": lambda: [run.process.pid],
        "rank": lambda: [run.rank(rank)],
        "tree": lambda: rng.sample(found := run.processes(), len(found)),
    }[target]
    sent, interrupted_s = 0, math.inf
    for name in signals:
        if name == "SIGINT":
            if time.monotonic() - interrupted_s > SAME_KEYPRESS_S / 2:
                continue  # so late a second one is an order to kill, and no notice
            interrupted_s = min(interrupted_s, time.monotonic())
        for pid in whom():
            if pid is not None and has_mark(pid, run.mark):
                sent += send([pid], signal.Signals[name])
    return sent
