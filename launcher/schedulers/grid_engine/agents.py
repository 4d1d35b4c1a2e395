"""The agents of a job: one beside the job script, one on each other host by `qrsh -inherit`."""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from ...contract.exit_codes import DONE
from ...contract.launcher_signals import SignalInbox
from ...errors import StartError

POLL_S = 0.2
STRAGGLER_S = 60.0
"""After the end of the agent here: agents part within seconds of each other."""
REFUSED_S = 20.0
"""A qrsh that ends this soon with 1 may not have been let in, or has started nothing."""
PATIENCE_S = 10.0
"""An agent that has failed ends the others within seconds; one that was never there ends nobody."""


def node_environment(
    rank: int, num_nodes: int, addr: str, port: int, run_id: str
) -> dict[str, str]:
    """Return the variables that say where an agent's node stands; pure."""
    return {
        "PET_NNODES": str(num_nodes),
        "PET_NODE_RANK": str(rank),
        "PET_MASTER_ADDR": addr,
        "PET_MASTER_PORT": str(port),
        "PET_RDZV_ID": run_id,
    }


def qrsh_command(host: str, command: Sequence[str], folder: str) -> list[str]:
    """Return what starts the command on another host of the job; pure.

    qrsh joins its words and hands them to a shell there. `-V` takes the environment along, so that
    no secret stands on a command line.
    """
    line = f"cd {shlex.quote(folder)} && exec {shlex.join(command)}"
    return ["qrsh", "-inherit", "-nostdin", "-V", host, line]


def common_code(codes: Sequence[int]) -> int:
    """Return the agents' exit code: that of the first host, unless only others failed; pure."""
    own, *others = [code if code >= 0 else 128 - code for code in codes]
    return own or next((code for code in others if code), DONE)


class Agents:
    """The agents of all hosts, as children of the job script's process."""

    def __init__(
        self,
        hosts: Sequence[str],
        commands: Sequence[Sequence[str]],
        environs: Sequence[Mapping[str, str]],
        say: Callable[[str], None],
    ) -> None:
        """Start them.

        Args:
            hosts: By name, that of this process first.
            commands: What is started here for each of them.
            environs: Of each of them.
            say: Tells the person.

        Raises:
            StartError: There is no qrsh.
        """
        self._hosts, self._say = hosts, say
        self._began_s = time.monotonic()
        self._left: tuple[str, float] | None = None
        """The first host that may have let no agent in, and since when."""
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for command, environ in zip(commands, environs, strict=True):
                # Sessions of their own: Grid Engine signals the job's process group, and a qrsh
                # that gets a signal ends its agent.
                self._processes.append(
                    subprocess.Popen(command, env=environ, start_new_session=True)
                )
        except OSError as error:
            self._end_all()
            raise StartError(
                f"{command[0]} cannot be run ({error.strerror}): the job script must run outside "
                "of the container. See docs/grid_engine.md."
            ) from error

    def wait(self, inbox: SignalInbox) -> int:
        """Return the agents' exit code; passes notices to the agent here, which tells the others.

        An agent that could not be started ends those that wait for it.
        """
        own = self._processes[0]
        passed_on = killed = refused = False
        while own.poll() is None:
            if inbox.warned_by is not None and not passed_on:
                passed_on = True
                self._send(own, inbox.warned_by)
            if inbox.kill_now and not killed:
                killed = True
                self._send(own, signal.SIGINT)
            if not refused and (found := self._refused()) is not None:
                refused = True
                self._say(found)
                self._send(own, signal.SIGTERM)
            time.sleep(POLL_S)
        end_s = time.monotonic() + STRAGGLER_S
        while time.monotonic() < end_s and any(p.poll() is None for p in self._processes):
            time.sleep(POLL_S)
        self._end_all()
        codes = [process.wait() for process in self._processes]
        if refused:
            return next(code if code > 0 else 1 for code in codes[1:] if code)
        return common_code(codes)

    def _refused(self) -> str | None:
        now = time.monotonic()
        if self._left is None and now - self._began_s <= REFUSED_S:
            others = zip(self._hosts[1:], self._processes[1:], strict=True)
            gone = next((host for host, process in others if process.poll() == 1), None)
            self._left = None if gone is None else (gone, now)
        if self._left is None or now - self._left[1] < PATIENCE_S:
            return None
        return refused_text(self._left[0], 1)

    def _end_all(self) -> None:
        for process in self._processes:
            self._send(process, signal.SIGTERM)

    def _send(self, process: "subprocess.Popen[bytes]", signum: int) -> None:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signum)


def refused_text(host: str, code: int) -> str:
    """Return the message about a host where no agent could be started."""
    return (
        f"qrsh -inherit {host} ended with {code} before the nodes have met. The parallel "
        "environment of the job needs `control_slaves TRUE`, and relaunch must be installed on "
        "that host too."
    )
