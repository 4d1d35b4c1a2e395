"""The batch step's process: starts an agent a node with srun, passes warnings on, outlives them."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from ...contract.exit_codes import CONTINUE
from ...contract.launcher_signals import SignalInbox
from ...errors import StartError

STRAGGLER_S = 60
"""After the first agent's end: agents part within seconds of each other."""
POLL_S = 0.2


def srun_command(command: Sequence[str], num_nodes: int, *, binds_cpus: bool) -> list[str]:
    """Return what starts the command on each node; pure.

    Args:
        command: The agent's.
        num_nodes: Of the job.
        binds_cpus: Slurm would give each task some of its node's CPUs.
    """
    return [
        "srun",
        f"--nodes={num_nodes}",
        f"--ntasks={num_nodes}",
        "--ntasks-per-node=1",
        "--export=ALL",
        *(("--cpu-bind=none",) if binds_cpus else ()),
        # The agents end each other; srun would kill those that still save.
        "--kill-on-bad-exit=0",
        f"--wait={STRAGGLER_S}",
        *command,
    ]


def code_of_srun(status: int, *, passed_on: bool) -> int:
    """Return the agents' exit code from the end of srun; pure.

    Args:
        status: Its exit code, or minus the signal's number.
        passed_on: It was sent the warning's signal, which ends it as long as it has no handler, and
            so before it has started anything.
    """
    if passed_on and status == -signal.SIGUSR1:
        return CONTINUE
    return status if status >= 0 else 128 - status


class AgentStep:
    """The job step of the agents."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start it.

        Raises:
            StartError: There is no srun.
        """
        try:
            # A session of its own: a terminal's Ctrl-C shall reach srun through us only.
            self._process = subprocess.Popen(command, env=environ, start_new_session=True)
        except OSError as error:
            raise StartError(
                f"{command[0]} cannot be run ({error.strerror}): the batch script must run outside "
                "of the container, and srun starts the container. See docs/slurm.md."
            ) from error

    def wait(self, inbox: SignalInbox) -> int:
        """Return srun's exit code: the highest of the agents'; passes warnings on meanwhile."""
        passed_on = killed = False
        while (status := self._poll()) is None:
            if inbox.warned_by is not None and not passed_on:
                passed_on = True
                # srun takes SIGTERM and SIGHUP as orders to kill; SIGUSR1 it hands to the tasks.
                self._send(signal.SIGUSR1)
            if inbox.kill_now and not killed:
                killed = True
                for _ in range(2):  # two within a second: srun ends the step
                    self._send(signal.SIGINT)
                    time.sleep(POLL_S)
        return code_of_srun(status, passed_on=passed_on)

    def _poll(self) -> int | None:
        try:
            return self._process.wait(timeout=POLL_S)
        except subprocess.TimeoutExpired:
            return None

    def _send(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signum)
