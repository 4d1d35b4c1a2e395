"""One attempt of a training: started, watched by its step file, preempted, and surely ended."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preemption_bench.task import RECORD_BYTES

POLL_S = 0.001
FIRST_STEP_S = 180.0
NEXT_STEP_S = 120.0
LEAVE_S = 120.0
"""What a preempted attempt may take; torchrun kills its ranks after 30 s."""
MARK = "ATTEMPT_OF_BENCH_PREEMPTION"
"""Its beginning counts: what rewrites its environment for /proc may cut it off at the end."""


class BenchError(Exception):
    """An attempt that did not do what it was started for."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How one start went."""

    first_step_s: float | None
    """From the command to the end of its first step; None: it took none."""
    seconds: float
    """From the command to the end of every process."""
    steps: int
    preempted: bool
    leaving_s: float
    """From the preemption, or where there was none from the last step, to the end of all."""
    code: int


@dataclass(kw_only=True)
class StepRecords:
    """What rank 0 has written about its steps, read from outside."""

    path: Path

    def count(self) -> int:
        """Return how many steps were taken, in all attempts."""
        return self.path.stat().st_size // RECORD_BYTES if self.path.exists() else 0

    def last(self) -> int:
        """Return where the training is: the number of the newest step."""
        count = self.count()
        if not count:
            return 0
        with self.path.open("rb") as file:
            file.seek((count - 1) * RECORD_BYTES)
            return int(file.read(RECORD_BYTES))


def marked(mark: str) -> list[int]:
    """Return the processes that have inherited a mark in their environment."""
    word = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if word in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue  # it has ended, or is somebody else's
    return found


def descendants(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(p for child in children for p in descendants(int(child)))]


def kill_all(process: "subprocess.Popen[bytes]", mark: str) -> None:
    """SIGKILL every process of one attempt, until there is none."""
    end = time.monotonic() + LEAVE_S
    while True:
        below = descendants(process.pid) if process.returncode is None else []
        pids = {pid for pid in (*below, *marked(mark)) if not is_zombie(pid)}
        if not pids:
            return
        if time.monotonic() > end:
            raise BenchError(f"processes {sorted(pids)} do not end")
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def run_attempt(
    command: Sequence[str],
    folder: Path,
    *,
    mark: str,
    number: int,
    preempt_at: int | None,
    how: str,
) -> Attempt:
    """Run one attempt to its end.

    Args:
        command: what is started, in `folder`.
        mark: of this attempt alone.
        number: names its log.
        preempt_at: the step at which it is preempted; None: it is left alone.
        how: `notice` sends SIGTERM to what was started, `kill` SIGKILL to all of its processes.
    """
    records = StepRecords(path=folder / "steps")
    before = records.count()
    with (folder / f"attempt-{number}.log").open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            watch = _Watch(process, records, before, began)
            preempted = watch.until(preempt_at)
            since = time.monotonic() if preempted else watch.moved
            if preempted and how == "notice":
                process.send_signal(signal.SIGTERM)
            elif preempted:
                kill_all(process, mark)
            process.wait(timeout=LEAVE_S)
        except subprocess.TimeoutExpired:
            pass  # a preemption ends in a kill
        finally:
            kill_all(process, mark)
            process.wait()
    now = time.monotonic()
    return Attempt(
        first_step_s=watch.first_step_s,
        seconds=now - began,
        steps=records.count() - before,
        preempted=preempted,
        leaving_s=now - since,
        code=process.returncode,
    )


class _Watch:
    """Waits for a step of a process, in bounded time."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", records: StepRecords, before: int, began: float
    ) -> None:
        self._process = process
        self._records = records
        self._seen = before
        self._before = before
        self._began = self.moved = began
        self.first_step_s: float | None = None
        """`moved` is when the newest step was seen."""

    def until(self, step: int | None) -> bool:
        """Return True once the step has been taken, False when the process has ended."""
        while self._process.poll() is None:
            self._look()
            if step is not None and self._seen > self._before and self._records.last() >= step:
                return True
            time.sleep(POLL_S)
        self._look()
        return False

    def _look(self) -> None:
        now, count = time.monotonic(), self._records.count()
        if count > self._seen:
            if self.first_step_s is None:
                self.first_step_s = now - self._began
            self._seen, self.moved = count, now
        limit = FIRST_STEP_S if self.first_step_s is None else NEXT_STEP_S
        if now - self.moved > limit:
            raise BenchError(f"no step in {limit:g} s")
