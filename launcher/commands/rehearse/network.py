"""Hosts on one machine: network namespaces, each with a virtual cable to one switch.

They share processes, files and clock with the machine, and have a network of their own.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

SUBNET = "10.231.7"
"""Of 254 addresses; seen by nobody but the hosts."""
_SWITCH = "switch"
_NEEDED = ("ip", "nsenter")
_IP_S = 60.0
_LEAVING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NoNetworkError(Exception):
    """No network can be made here; the reason as words."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Hosts, numbered from 0."""

    switch: str
    """The namespace of the switch."""
    names: tuple[str, ...]
    """The namespace of each host."""
    cables: tuple[str, ...]
    """The network interface of each host."""
    addresses: tuple[str, ...]
    """IPv4, of each host."""

    @classmethod
    def of(cls, number: int, key: str) -> Network:
        """Return the names of so many hosts. Pure.

        Args:
            number: of hosts, at most 254.
            key: tells it from other networks of the machine; at most 7 characters.
        """
        return cls(
            switch=f"rl-{key}-switch",
            names=tuple(f"rl-{key}-{host}" for host in range(number)),
            cables=tuple(f"rl{key}{host}" for host in range(number)),
            addresses=tuple(f"{SUBNET}.{host + 1}" for host in range(number)),
        )

    def file(self, host: int) -> str:
        """Return the file of a host's namespace, which `nsenter --net` and setns(2) take. Pure."""
        return f"/run/netns/{self.names[host]}"

    def processes(self, host: int) -> list[int]:
        """Return the processes of a host."""
        return [int(pid) for pid in ip("netns", "pids", self.names[host]).split()]

    def cut(self, host: int) -> None:
        """Pull a host's cable out of the switch: nothing reaches the host or leaves it."""
        ip("-n", self.switch, "link", "set", plug_of(self.cables[host]), "down")

    def mend(self, host: int) -> None:
        """Put it in again."""
        ip("-n", self.switch, "link", "set", plug_of(self.cables[host]), "up")


def ip(*words: str) -> str:
    """Run the `ip` command and return what it prints.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=_IP_S)
    return done.stdout


def plug_of(cable: str) -> str:
    """Return the interface at the switch's end of a cable. Pure."""
    return f"{cable}p"


def lay_cables(
    switch: str, names: Sequence[str], cables: Sequence[str], addresses: Sequence[str]
) -> None:
    """Make the namespaces, and connect each one's cable to the bridge in that of the switch.

    Args:
        switch: the namespace of the bridge.
        names: the namespaces of the hosts.
        cables: the interface of each, at most 14 characters.
        addresses: of each, IPv4.

    Raises:
        subprocess.CalledProcessError: this machine has no namespaces, or one needs more rights.
    """
    for name in (switch, *names):
        ip("netns", "add", name)
    ip("-n", switch, "link", "add", _SWITCH, "type", "bridge")
    ip("-n", switch, "link", "set", _SWITCH, "up")
    for name, cable, address in zip(names, cables, addresses, strict=True):
        plug = plug_of(cable)
        ip("-n", switch, "link", "add", plug, "type", "veth", "peer", "name", cable)
        ip("-n", switch, "link", "set", cable, "netns", name)
        ip("-n", switch, "link", "set", plug, "master", _SWITCH)
        ip("-n", switch, "link", "set", plug, "up")
        ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
        ip("-n", name, "link", "set", cable, "up")
        ip("-n", name, "link", "set", "lo", "up")


def remove(names: Sequence[str]) -> None:
    """Remove namespaces, with what is in them; those that are not there are skipped."""
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=_IP_S)


@contextmanager
def network_of(number: int) -> Iterator[Network]:
    """Make hosts, and remove them at the end.

    Called on the main thread. Whoever uses them ends their processes first.

    Raises:
        NoNetworkError: it cannot be done here.
    """
    if missing := [name for name in _NEEDED if shutil.which(name) is None]:
        raise NoNetworkError(f"there is no {missing[0]} command")
    network = Network.of(number, uuid.uuid4().hex[:6])
    names = (*network.names, network.switch)
    try:
        with _signals_wait():
            try:
                lay_cables(network.switch, network.names, network.cables, network.addresses)
            except subprocess.CalledProcessError as error:
                raise NoNetworkError(reason_of(error)) from None
        yield network
    finally:
        with _signals_wait():
            remove(names)


def reason_of(error: subprocess.CalledProcessError) -> str:
    """Return why `ip` failed, in its own words. Pure."""
    said = (error.stderr or "").strip().splitlines()
    command = " ".join(map(str, error.cmd[:3]))
    return f"{command}: {said[-1]}" if said else f"{command} ended with {error.returncode}"


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let the signals that end this process wait, so that nothing is left half made."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEAVING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
