"""Three hosts on one machine, and the processes that are started on them."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from launcher.commands.rehearse.network import Network, network_of

NUM_HOSTS = 3
END_S = 20.0


@dataclass
class Hosts:
    """Three of them."""

    network: Network
    started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def start(
        self, host: int, command: Sequence[str], log: Path, environ: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        """Start a command on a host; its output goes to a file."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.network.names[host], *command],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def kill(self, host: int) -> None:
        """SIGKILL every process of a host."""
        for pid in self.network.processes(host):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cut(self, host: int) -> None:
        """Pull a host's cable."""
        self.network.cut(host)

    def clear(self) -> None:
        """End every process of every host."""
        end = time.monotonic() + END_S
        while any(self.network.processes(host) for host in range(NUM_HOSTS)):
            for host in range(NUM_HOSTS):
                self.kill(host)
            if time.monotonic() > end:
                raise RuntimeError("processes of the hosts do not end")
            time.sleep(0.05)
        for process in self.started:
            process.wait()


@contextmanager
def hosts() -> Iterator[Hosts]:
    """Make them, and remove them at the end. Needs root and the `ip` command."""
    with network_of(NUM_HOSTS) as network:
        found = Hosts(network)
        yield found
        found.clear()
