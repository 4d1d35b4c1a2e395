"""Which CPUs each rank may use under --numa-binding: read from the kernel, decided purely."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

MODES = ("node", "socket", "exclusive", "core-complex")
Cpus = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The CPUs on which this process may run, and how they hang together."""

    nodes: Mapping[int, frozenset[int]]
    """NUMA node to its CPUs; a node without any is left out."""
    sockets: Mapping[int, int]
    """CPU to its socket."""
    cores: Mapping[int, int]
    """CPU to the first CPU of its physical core."""
    complexes: Mapping[int, int]
    """CPU to the first of those with which it shares a level-3 cache."""


def bind(mode: str, topology: Topology, homes: Sequence[int | None]) -> tuple[Cpus, ...]:
    """Return the CPUs of each local rank; pure.

    Args:
        mode: One of MODES, with torchrun's meaning.
        topology: Of this machine.
        homes: The NUMA node of each local rank's GPU; None: it has none, and the ranks are spread
            over the nodes in order.

    Raises:
        UsageError: A rank would get no CPU.
    """
    nodes = sorted(topology.nodes)
    at = [
        nodes[rank * len(nodes) // len(homes)] if home is None else home
        for rank, home in enumerate(homes)
    ]
    found = []
    for rank, node in enumerate(at):
        if node not in topology.nodes:
            raise UsageError(
                f"--numa-binding {mode}: the GPU of local rank {rank} is at NUMA node {node}, of "
                f"whose CPUs this process may use none; it may use those of {_listed(nodes)}. "
                "Leave it out, or let the job have CPUs of that node."
            )
        beside = [other for other, its in enumerate(at) if its == node]
        found.append(_cpus(mode, topology, node, beside.index(rank), len(beside)))
    return tuple(found)


def _cpus(mode: str, topology: Topology, node: int, place: int, ranks: int) -> Cpus:
    """Return the CPUs of the rank that is number `place` of those at a node."""
    own = topology.nodes[node]
    if mode == "node":
        return tuple(sorted(own))
    if mode == "socket":
        sockets = {topology.sockets[cpu] for cpu in own}
        every = (cpu for cpus in topology.nodes.values() for cpu in cpus)
        return tuple(sorted(cpu for cpu in every if topology.sockets[cpu] in sockets))
    if mode == "core-complex":
        groups = _groups(own, topology.complexes)
        return groups[place % len(groups)]
    cores = _groups(own, topology.cores)
    if ranks > len(cores):
        raise UsageError(
            f"--numa-binding exclusive: {ranks} ranks at NUMA node {node}, where this process may "
            f"use {len(cores)} cores. Pass --numa-binding node, or fewer ranks."
        )
    part = cores[place * len(cores) // ranks : (place + 1) * len(cores) // ranks]
    return tuple(sorted(cpu for core in part for cpu in core))


def _groups(cpus: Iterable[int], first_of: Mapping[int, int]) -> list[Cpus]:
    groups: dict[int, list[int]] = {}
    for cpu in sorted(cpus):
        groups.setdefault(first_of[cpu], []).append(cpu)
    return [tuple(groups[first]) for first in sorted(groups)]


def read_topology(allowed: Iterable[int], root: Path = Path("/sys/devices/system")) -> Topology:
    """Read it; what the kernel does not say stands for one node, one socket, a core each."""
    cpus = frozenset(allowed)
    nodes = {
        int(folder.name.removeprefix("node")): listed & cpus
        for folder in sorted(root.glob("node/node[0-9]*"))
        if (listed := parse_list(_text(folder / "cpulist"))) & cpus
    }

    def first(cpu: int, *names: str) -> int | None:
        together = parse_list(_text(root.joinpath("cpu", f"cpu{cpu}", *names)))
        return min(together) if together else None

    def number(cpu: int, *names: str) -> int:
        text = _text(root.joinpath("cpu", f"cpu{cpu}", *names))
        return int(text) if text.isdecimal() else 0

    cores = {cpu: first(cpu, "topology", "thread_siblings_list") for cpu in cpus}
    caches = {cpu: first(cpu, "cache", "index3", "shared_cpu_list") for cpu in cpus}
    return Topology(
        nodes=nodes or {0: cpus},
        sockets={cpu: number(cpu, "topology", "physical_package_id") for cpu in cpus},
        cores={cpu: cpu if core is None else core for cpu, core in cores.items()},
        complexes={cpu: 0 if cache is None else cache for cpu, cache in caches.items()},
    )


def parse_list(text: str) -> frozenset[int]:
    """Read the kernel's lists of CPUs, such as `0-3,8`; pure."""
    found: set[int] = set()
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if low.isdecimal():
            found.update(range(int(low), int(high or low) + 1))
    return frozenset(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _listed(nodes: Sequence[int]) -> str:
    return f"node{'s' if len(nodes) > 1 else ''} {', '.join(map(str, nodes))}"
