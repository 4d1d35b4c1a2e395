"""Before a restart: waits until the GPUs have released what the ended ranks held.

A driver frees a killed process's memory late, or not before a forgotten child of it is gone; ranks
that begin meanwhile run out of memory. What the GPUs held before the ranks is not waited for: it is
another's. Without nvidia-smi, or where the ranks see no GPU, nothing happens.
"""

import contextlib
import enum
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping

from ..contract.environment import CUDA_DEVICES

LONGEST_S = 30.0
"""How long a restart waits."""
LOOK_S = 0.5
ANSWER_S = 10.0
SETTLE_S = 2.0
"""Its answer is a few lines, which a pipe holds."""
"""How long nvidia-smi may take; it hangs where the driver does."""
SLACK_MIB = 512
"""How much more than before the ranks counts as released: other processes come and go too."""
_QUERY = ("--query-gpu=index,uuid,memory.used", "--format=csv,noheader,nounits")

Used = Mapping[str, int]
"""GPU, such as "GPU 0", to the MiB in use."""


class MemoryWait(enum.Enum):
    """What to do after a look at the GPUs."""

    START = enum.auto()
    LOOK_AGAIN = enum.auto()
    GIVE_UP = enum.auto()
    """Start although memory is held."""


def next_after(before: Used, now: Used, waited_s: float) -> MemoryWait:
    """Return what to do; pure.

    Args:
        before: What was in use before the first ranks.
        now: What is in use, at least SLACK_MIB above which counts as held.
        waited_s: Since the ranks have ended.
    """
    if not held(before, now):
        return MemoryWait.START
    return MemoryWait.LOOK_AGAIN if waited_s < LONGEST_S else MemoryWait.GIVE_UP


def held(before: Used, now: Used) -> str:
    """Return "GPU 0 holds 8000 MiB (100 MiB before the ranks)" and so on; empty: nothing. Pure."""
    return ", ".join(
        f"{gpu} holds {used} MiB ({before[gpu]} MiB before the ranks)"
        for gpu, used in now.items()
        if gpu in before and used > before[gpu] + SLACK_MIB
    )


def parse_used(text: str, visible: str | None) -> dict[str, int] | None:
    """Read nvidia-smi's lines "index, uuid, MiB" for the visible GPUs; None: these are none. Pure.

    Args:
        text: Of the query above.
        visible: CUDA_VISIBLE_DEVICES; None: all. An index counts as nvidia-smi does, which on a
            machine with GPUs of one kind is CUDA's order too; MIG instances are not looked at.
    """
    chosen = None if visible is None else [entry.strip() for entry in visible.split(",")]
    used = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 3:
            return None
        index, uuid, mib = fields
        if not mib.isdecimal():  # "[N/A]" where the memory is the machine's own
            continue
        if chosen is None or any(_names(entry, index, uuid) for entry in chosen):
            used[f"GPU {index}"] = int(mib)
    return used


def _names(entry: str, index: str, uuid: str) -> bool:
    return entry == index or (entry.startswith("GPU-") and uuid.startswith(entry))


class AcceleratorMemory:
    """The memory of the GPUs that this node's ranks may use."""

    def __init__(self, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._say = say
        self._visible = environ.get(CUDA_DEVICES)
        self._command = (
            None if self._visible == "" else shutil.which("nvidia-smi", path=_path(environ))
        )
        self._asked: subprocess.Popen[str] | None = None
        self._before: Used | None = None
        self._is_settled = False

    def ask(self) -> None:
        """Begin to find out what is in use before the first ranks, while they are prepared."""
        if self._command is not None and self._asked is None:
            self._asked = self._start()

    def settle(self) -> None:
        """Let no rank start before the answer is there, or it would count that rank's memory.

        Called before the ranks of each attempt start; waits once, SETTLE_S at most.
        """
        if self._asked is None or self._is_settled:
            return
        self._is_settled = True
        try:
            self._asked.wait(SETTLE_S)
        except subprocess.TimeoutExpired:
            _end(self._asked)
            self._asked = None
            self._say(
                f"nvidia-smi has not answered in {SETTLE_S:g} s: a restart will not wait for the "
                "memory of the GPUs."
            )

    def wait(self, given_up: Callable[[], bool]) -> None:
        """Wait until what the ranks held is released, at most LONGEST_S seconds; says so.

        Called between two attempts, after the ranks are gone.

        Args:
            given_up: Whether there is to be no restart after all.
        """
        if self._asked is None:
            return
        if self._before is None:
            self._before = self._answer(self._asked)
        began, reported = time.monotonic(), False
        while self._before and not given_up():
            now = self._answer(self._start())
            if now is None:
                self._say("nvidia-smi does not answer: not waiting for the memory of the GPUs.")
                return
            waited_s = time.monotonic() - began
            step = next_after(self._before, now, waited_s)
            if step is MemoryWait.START:
                if reported:
                    self._say(f"the memory of the GPUs was released after {waited_s:.1f} s.")
                return
            what = held(self._before, now)
            if step is MemoryWait.GIVE_UP:
                self._say(f"{what} {waited_s:.0f} s after the ranks have ended; starting anyway.")
                return
            if not reported:
                self._say(f"waiting until memory is released: {what}.")
            reported = True
            time.sleep(LOOK_S)

    def close(self) -> None:
        """End what still runs."""
        if self._asked is not None and self._asked.poll() is None:
            _end(self._asked)

    def _start(self) -> "subprocess.Popen[str] | None":
        assert self._command is not None
        try:
            return subprocess.Popen(
                [self._command, *_QUERY],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError:
            return None

    def _answer(self, asked: "subprocess.Popen[str] | None") -> Used | None:
        if asked is None:
            return None
        try:
            text = asked.communicate(timeout=ANSWER_S)[0]
        except subprocess.TimeoutExpired:
            _end(asked)
            return None
        return parse_used(text, self._visible) if asked.returncode == 0 else None


def _path(environ: Mapping[str, str]) -> str:
    return environ.get("PATH", os.defpath)


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill it; one that hangs in the driver is left to it."""
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=1.0)
