"""The processes of a rehearsed command: found by its mark, and ended by nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..trials.run_trial import LauncherProcess, Trial

MARK = "REHEARSAL_MARK"
"""A variable in the environment of every process that a rehearsal starts."""
POLL_S = 0.005
SCAN_S = 0.03
"""Between two looks at all processes of the machine, which take time from the run."""
_KILL_S = 10.0
_WRITER = b"checkpointing.background.writer_process"
_GUARDIAN = b"guardian.py"
_SERVER = "relaunch-warm"
_HELPERS = (_WRITER, b"resource_tracker", b"multiprocessing.spawn")


def wait_until(condition: Callable[[], object], bound_s: float, *, poll_s: float = POLL_S) -> bool:
    """Wait for something, at most so long; return whether it came."""
    end = time.monotonic() + bound_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(poll_s)
    return True


class StepTrace:
    """Follows the steps that the first rank of a command begins; those before are not its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._cut = b""
        self.steps: list[int] = []
        """In the order in which they were begun; one that was begun twice is there twice."""

    def newest(self) -> int | None:
        """Return the newest step that was begun: so many are done."""
        with suppress(OSError), self._path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
            self._offset += len(new)
            *lines, self._cut = (self._cut + new).split(b"\n")
            for line in lines:
                step = None
                with suppress(ValueError):  # cut by a kill
                    step = json.loads(line).get("step")
                if step is not None and (not self.steps or self.steps[-1] != step):
                    self.steps.append(step)
        return self.steps[-1] if self.steps else None


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A launcher, and the processes that belong to it."""

    process: LauncherProcess
    mark: str
    """What each of them has in its environment, as NAME=VALUE."""

    def has_ended(self) -> bool:
        """Return whether the launcher has ended."""
        return self.process.poll() is not None

    def processes(self) -> list[int]:
        """Return the living processes of this command, the launcher among them."""
        return marked(self.mark)

    def rank(self, rank: int) -> int | None:
        """Return the process of a rank, as soon as it has its place; None: it is not there.

        A cold one has its rank in its environment, a forked one in its name; both lead their group.
        """
        for pid in self.processes():
            with suppress(OSError):
                is_rank = f"RANK={rank}".encode() in _read(pid, "environ").split(b"\0")
                is_rank |= _name(pid) == f"rank {rank}"
                if is_rank and os.getpgid(pid) == pid:
                    return pid
        return None

    def kill(self) -> None:
        """End all that is left; what hangs in the kernel does not end and is left."""
        end = time.monotonic() + _KILL_S
        while (left := self.processes()) and time.monotonic() < end:
            send(left, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.05)


@dataclass(frozen=True, kw_only=True)
class Running(Marked):
    """A command of a rehearsal."""

    trace: StepTrace
    began_s: float = field(default_factory=time.monotonic)

    def writers(self) -> list[int]:
        """Return the processes that write checkpoints."""
        return [pid for pid in self.processes() if _WRITER in _read(pid, "cmdline")]

    def guardian(self) -> list[int]:
        """Return the process that outlives the launcher by a moment."""
        return [pid for pid in self.processes() if _GUARDIAN in _read(pid, "cmdline")]

    def fork_server(self) -> list[int]:
        """Return the process from which ranks are forked; none with --cold."""
        launcher = self.process.pid
        return [p for p in self.processes() if _name(p) == _SERVER and _parent(p) == launcher]

    def loader_workers(self, rank: int) -> list[int]:
        """Return the processes that load data for a rank."""
        parent = self.rank(rank)
        children = [pid for pid in self.processes() if parent and _parent(pid) == parent]
        return [p for p in children if not any(word in _read(p, "cmdline") for word in _HELPERS)]


@contextmanager
def started(
    trial: Trial, start: Callable[[Trial], LauncherProcess], variables: Mapping[str, str]
) -> Iterator[Running]:
    """Start a command under a mark of its own; whatever is left of it at the end is killed.

    Args:
        trial: what is started.
        start: starts it.
        variables: more of its environment.
    """
    path = trial.settings.trace_file(0)
    assert path is not None
    trace = StepTrace(path)
    mark = uuid.uuid4().hex
    trial = replace(trial, variables={MARK: mark, **variables})
    running = Running(process=start(trial), mark=f"{MARK}={mark}", trace=trace)
    try:
        yield running
    finally:
        running.kill()
        with suppress(subprocess.TimeoutExpired):
            running.process.wait(_KILL_S)


def marked(mark: str) -> list[int]:
    """Return the living processes, this one excepted, with `mark` in their environment."""
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    own = os.getpid()
    return [pid for pid in found if pid != own and has_mark(pid, mark)]


def has_mark(pid: int, mark: str) -> bool:
    """Return whether a living process has `mark` in its environment."""
    return mark.encode() in _read(pid, "environ")


def send(pids: list[int], signum: int) -> int:
    """Send a signal to each; return how many were there."""
    sent = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)
            sent += 1
    return sent


def _read(pid: int, name: str) -> bytes:
    """Return one of the kernel's files about a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _name(pid: int) -> str:
    return _read(pid, "comm").decode(errors="replace").strip()


def _parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0
