"""Hosts on one machine: network namespaces, each with a virtual cable to one switch."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

NUM_HOSTS = 3
ADDRESSES = tuple(f"10.231.8.{host}" for host in range(1, NUM_HOSTS + 1))
SWITCH = "switch"
END_S = 20.0


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def lay_cables(
    switch: str, names: Sequence[str], cables: Sequence[str], addresses: Sequence[str]
) -> None:
    """Make the namespaces, and connect each one's cable to the bridge in that of the switch.

    Args:
        switch: the namespace of the bridge.
        names: the namespaces of the hosts.
        cables: the interface of each.
        addresses: of each, IPv4.

    Raises:
        subprocess.CalledProcessError: this machine has no namespaces.
    """
    for name in (switch, *names):
        ip("netns", "add", name)
    ip("-n", switch, "link", "add", SWITCH, "type", "bridge")
    ip("-n", switch, "link", "set", SWITCH, "up")
    for name, cable, address in zip(names, cables, addresses, strict=True):
        plug = f"{cable}p"
        ip("-n", switch, "link", "add", plug, "type", "veth", "peer", "name", cable)
        ip("-n", switch, "link", "set", cable, "netns", name)
        ip("-n", switch, "link", "set", plug, "master", SWITCH)
        ip("-n", switch, "link", "set", plug, "up")
        ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
        ip("-n", name, "link", "set", cable, "up")
        ip("-n", name, "link", "set", "lo", "up")


@dataclass
class Hosts:
    """Three of them."""

    names: tuple[str, ...]
    """Their namespaces."""
    cables: tuple[str, ...]
    started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def start(
        self, host: int, command: Sequence[str], log: Path, environ: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        """Start a command on a host; its output goes to a file."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.names[host], *command],
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
        for pid in ip("netns", "pids", self.names[host]).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def cut(self, host: int) -> None:
        """Pull a host's cable."""
        ip("-n", self.names[host], "link", "set", self.cables[host], "down")

    def clear(self) -> None:
        """End every process of every host."""
        end = time.monotonic() + END_S
        while any(ip("netns", "pids", name).split() for name in self.names):
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
    key = uuid.uuid4().hex[:6]
    names = tuple(f"rb-{key}-{host}" for host in range(NUM_HOSTS))
    cables = tuple(f"rb{key}{host}" for host in range(NUM_HOSTS))
    switch = f"rb-{key}-s"
    found = Hosts(names, cables)
    try:
        lay_cables(switch, names, cables, ADDRESSES)
        yield found
        found.clear()
    finally:
        for name in (*names, switch):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
