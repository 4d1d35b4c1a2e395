"""A rank's heartbeat: its progress, in a small file that the launcher reads.

`Run` gives it at each boundary. A script of another kind may do so too:

    from launcher import beat
    for step, batch in enumerate(loader):
        ...
        beat(step)
"""

import contextlib
import faulthandler
import functools
import os
import signal
import struct
from dataclasses import dataclass
from pathlib import Path

from ..environment import RankEnvironment

STACK_SIGNAL = signal.SIGQUIT
"""Asks a rank that listens for the stacks of its threads."""

_FORM = struct.Struct("<qq")
_NO_STEP = -1


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A rank's last heartbeat."""

    count: int
    """Signs given so far in this attempt."""
    step: int | None
    """The last step that it has finished in this attempt; None: none yet."""


class Heartbeat:
    """The rank's end; without a file, as under plain `python train.py`, it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._fd: int | None = None
        self._count = 0
        self._step = _NO_STEP
        if path is not None:
            if (before := read_beat(path)) is not None:  # another of this rank's has counted so far
                self._count = before.count
                self._step = _NO_STEP if before.step is None else before.step
            with contextlib.suppress(OSError):  # a full disk must not end a run that could continue
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def beat(self, step: int | None = None) -> None:
        """Report that this rank makes progress; takes microseconds.

        Args:
            step: The step it has finished; None: something else than a step.
        """
        self._count += 1
        if step is not None:
            self._step = step
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, _FORM.pack(self._count, self._step), 0)


def beat(step: int | None = None) -> None:
    """Report progress of this rank; see `Heartbeat.beat`. For scripts that do not use `Run`."""
    _own().beat(step)


def read_beat(path: Path) -> Beat | None:
    """Return the rank's last heartbeat; None before the first. Called in the launcher."""
    try:
        count, step = _FORM.unpack(path.read_bytes())
    except (OSError, struct.error):
        return None
    return Beat(count=count, step=None if step == _NO_STEP else step)


def listen_for_stacks(path: Path | None) -> None:
    """Let the launcher ask for this process's stacks; they are appended to the file."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        # Kept open for the life of the process: the handler may run at any moment.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        faulthandler.register(STACK_SIGNAL, file=fd, all_threads=True)


@functools.cache
def _own() -> Heartbeat:
    environment = RankEnvironment.from_environ(os.environ)
    listen_for_stacks(environment.stacks_file)
    return Heartbeat(environment.heartbeat_file)
