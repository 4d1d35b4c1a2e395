"""What happens to a run while it trains: signals, deaths, stops and a disk that fails."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from checkpointing.format.names import parse_step_folder

from .network import Network
from .processes import Running, send, wait_until

_FIND_S = 10.0
"""How long a process that is to be met may take to be there."""
_WHILE_S = 1.0
"""How long a trouble lasts that passes."""

LEADER, OTHER = 0, 1
"""The nodes that a fault may be about."""


class Absent(Exception):
    """What a fault is about is not there, so that it can show nothing; the reason as a sentence."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A run at the moment of its fault."""

    commands: tuple[Running, ...]
    """One for each node; the first is the leader."""
    run_dir: Path
    rank: int
    """The rank that was drawn."""
    network: Network | None = None
    """Of the nodes; None: all are launchers of this host."""
    bound_s: float = 120.0
    """So long a command may take to end."""

    @property
    def command(self) -> Running:
        """The first."""
        return self.commands[0]

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.run_dir / "checkpoints"


Act = Callable[[Scene], None]
Whom = Callable[[Scene], list[int]]


def launcher(scene: Scene) -> list[int]:
    """The launcher."""
    return [scene.command.process.pid]


def other_launcher(scene: Scene) -> list[int]:
    """The launcher of the second node."""
    return [scene.commands[OTHER].process.pid]


def leader(scene: Scene) -> list[int]:
    """The first node."""
    return scene.commands[LEADER].processes()


def other_node(scene: Scene) -> list[int]:
    """The second node."""
    return scene.commands[OTHER].processes()


def one_rank(scene: Scene) -> list[int]:
    """One rank."""
    pid = scene.command.rank(scene.rank)
    return [] if pid is None else [pid]


def everyone(scene: Scene) -> list[int]:
    """Every process."""
    return scene.command.processes()


def writers(scene: Scene) -> list[int]:
    """The processes that write checkpoints."""
    return scene.command.writers()


def guardian(scene: Scene) -> list[int]:
    """The guardian."""
    return scene.command.guardian()


def fork_server(scene: Scene) -> list[int]:
    """The fork server."""
    return scene.command.fork_server()


def loader_worker(scene: Scene) -> list[int]:
    """One process that loads data."""
    return scene.command.loader_workers(scene.rank)[:1]


def signalled(whom: Whom, *signals: int, apart_s: float = 0.0) -> Act:
    """Return the act that sends signals, one after the other."""

    def act(scene: Scene) -> None:
        for number, signum in enumerate(signals):
            time.sleep(apart_s if number else 0.0)
            if not send(_found(whom, scene), signum) and number == 0:
                raise Absent(f"{_what(whom)} had ended")

    return act


def paused(whom: Whom) -> Act:
    """Return the act that stops processes for a while."""

    def act(scene: Scene) -> None:
        found = _found(whom, scene)
        send(found, signal.SIGSTOP)
        time.sleep(_WHILE_S)
        send(found, signal.SIGCONT)

    return act


def slowed(whom: Whom) -> Act:
    """Return the act that lets processes run only one tenth of the time, for a while."""

    def act(scene: Scene) -> None:
        end = time.monotonic() + 2 * _WHILE_S
        while time.monotonic() < end and not scene.command.has_ended():
            found = _found(whom, scene)
            send(found, signal.SIGSTOP)
            time.sleep(0.18)
            send(found, signal.SIGCONT)
            time.sleep(0.02)

    return act


def in_a_save(then: Act) -> Act:
    """Return the act that waits for a save to be in flight first."""

    def act(scene: Scene) -> None:
        def is_saving() -> bool:
            return any(scene.checkpoints.glob(".tmp-step-*"))

        if not wait_until(lambda: is_saving() or scene.command.has_ended(), _FIND_S):
            raise Absent("no save was seen in flight")
        then(scene)

    return act


def after_a_save(then: Act) -> Act:
    """Return the act that waits until a checkpoint is there, of a step before the present one."""

    def act(scene: Scene) -> None:
        def is_older() -> bool:
            found = [parse_step_folder(one.name) for one in scene.checkpoints.glob("step-*")]
            return any(step < (scene.command.trace.newest() or 0) for step in found if step)

        wait_until(lambda: is_older() or scene.command.has_ended(), _FIND_S)
        then(scene)

    return act


def limited(which: int, soft: int, *, and_then: Act | None = None) -> Act:
    """Return the act that takes a resource from the writers, for a while or until the end.

    Args:
        which: a limit of `resource`.
        soft: what it is lowered to.
        and_then: what happens meanwhile; None: the limit is lifted again after a while.
    """

    def act(scene: Scene) -> None:
        before = {}
        for pid in _found(writers, scene):
            with suppress(ProcessLookupError):
                _, hard = before[pid] = resource.prlimit(pid, which)
                resource.prlimit(pid, which, (soft, hard))
        if and_then is not None:
            and_then(scene)
            return
        time.sleep(_WHILE_S)
        for pid, limits in before.items():
            with suppress(ProcessLookupError):
                resource.prlimit(pid, which, limits)

    return act


def network_cut(seconds: float | None) -> Act:
    """Return the act that cuts the second node off the others.

    Args:
        seconds: for so long; None: until the command has ended on all nodes.
    """

    def act(scene: Scene) -> None:
        if scene.network is None:
            raise Absent("the nodes have no network of their own here")
        scene.network.cut(OTHER)
        try:
            bound_s = scene.bound_s if seconds is None else seconds
            wait_until(lambda: all(one.has_ended() for one in scene.commands), bound_s)
        finally:
            scene.network.mend(OTHER)

    return act


def folder_blocked(scene: Scene) -> None:
    """Put a file in the place of the checkpoints' folder, for a while."""
    away = scene.run_dir / "checkpoints-away"
    if not wait_until(scene.checkpoints.is_dir, _FIND_S):
        raise Absent("there was no checkpoint yet")
    os.rename(scene.checkpoints, away)
    scene.checkpoints.touch()
    time.sleep(_WHILE_S)
    with suppress(FileNotFoundError, IsADirectoryError):
        scene.checkpoints.unlink()
    if scene.checkpoints.exists():  # the run has made it again
        for one in scene.checkpoints.iterdir():
            os.rename(one, away / one.name)
        scene.checkpoints.rmdir()
    os.rename(away, scene.checkpoints)


def newest_removed(scene: Scene) -> None:
    """Remove the newest checkpoint."""
    wait_until(lambda: any(scene.checkpoints.glob("step-*")), _FIND_S)
    shutil.rmtree(newest_checkpoint(scene.checkpoints))


def newest_checkpoint(folder: Path) -> Path:
    """Return the newest checkpoint's folder.

    Raises:
        Absent: there is none.
    """
    found = [one for one in folder.glob("step-*") if parse_step_folder(one.name) is not None]
    if not found:
        raise Absent("there was no checkpoint yet")
    return max(found)


def _found(whom: Whom, scene: Scene) -> list[int]:
    """Return those who are meant.

    Raises:
        Absent: they are not there.
    """
    wait_until(lambda: whom(scene) or scene.command.has_ended(), _FIND_S if whom in _LATE else 1.0)
    if not (found := whom(scene)):
        raise Absent(_WHY_ABSENT.get(whom) or f"{_what(whom)} was not there")
    return found


def _what(whom: Whom) -> str:
    text = (whom.__doc__ or "").rstrip(".")
    return text[:1].lower() + text[1:]


_LATE = (writers, one_rank)
"""Those that are there only some time after the start."""
_WHY_ABSENT: dict[Whom, str] = {
    loader_worker: "no process loaded data; a script has them with workers=1 or more",
    fork_server: "there was no fork server; there is none with --cold",
}
"""A sentence where the script or an option is why someone is not there."""
