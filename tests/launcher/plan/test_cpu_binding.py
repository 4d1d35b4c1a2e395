"""Which CPUs a rank gets under --numa-binding."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import UsageError
from launcher.plan.cpu_binding import Topology, bind, parse_list, read_topology
from launcher.plan.gpu_nodes import numa_node
from launcher.plan.launch_plan import bind_ranks, make_plan
from launcher.plan.machine import Machine
from launcher.plan.options import LaunchOptions

# Two sockets of two nodes each; a node has two cores of two threads; two cores share a cache.
NODES = {node: frozenset({2 * node, 2 * node + 1, 2 * node + 8, 2 * node + 9}) for node in range(4)}
TWO_SOCKETS = Topology(
    nodes=NODES,
    sockets={cpu: cpu % 8 // 4 for cpu in range(16)},
    cores={cpu: cpu % 8 for cpu in range(16)},
    complexes={cpu: cpu % 8 for cpu in range(16)},
)
ONE_NODE = Topology(
    nodes={0: frozenset(range(4))},
    sockets=dict.fromkeys(range(4), 0),
    cores={cpu: cpu for cpu in range(4)},
    complexes={0: 0, 1: 0, 2: 2, 3: 2},
)
GPUS = [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("mode", "topology", "homes", "cpus"),
    [
        ("node", TWO_SOCKETS, GPUS, [(2, 3, 10, 11)] * 2 + [(4, 5, 12, 13), (6, 7, 14, 15)]),
        ("socket", TWO_SOCKETS, [1, 2], [(0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)]),
        ("exclusive", TWO_SOCKETS, GPUS, [(2, 10), (3, 11), (4, 5, 12, 13), (6, 7, 14, 15)]),
        ("core-complex", TWO_SOCKETS, GPUS, [(2, 10), (3, 11), (4, 12), (6, 14)]),
        # Ranks on CPUs are spread over the nodes in order.
        ("node", TWO_SOCKETS, [None] * 2, [(0, 1, 8, 9), (4, 5, 12, 13)]),
        ("exclusive", TWO_SOCKETS, [None] * 8, [(0, 8), (1, 9), (2, 10), (3, 11)]),
        ("node", ONE_NODE, [None] * 2, [(0, 1, 2, 3)] * 2),
        ("exclusive", ONE_NODE, [None] * 3, [(0,), (1,), (2, 3)]),
        ("core-complex", ONE_NODE, [None] * 3, [(0, 1), (2, 3), (0, 1)]),
    ],
)
def test_the_cpus_of_each_rank(
    mode: str, topology: Topology, homes: list[int | None], cpus: list[tuple[int, ...]]
) -> None:
    assert list(bind(mode, topology, homes))[: len(cpus)] == cpus


@pytest.mark.parametrize(
    ("mode", "homes", "message"),
    [
        ("exclusive", [None] * 5, r"5 ranks at NUMA node 0, where this process may use 4 cores"),
        ("node", [1], r"local rank 0 is at NUMA node 1, of whose CPUs .* those of node 0\."),
    ],
)
def test_what_cannot_be_done(mode: str, homes: list[int | None], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bind(mode, ONE_NODE, homes)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,8", {0, 1, 2, 3, 8}), ("5", {5}), ("", set()), ("0-1, 4-5", {0, 1, 4, 5})],
)
def test_lists_of_the_kernel(text: str, cpus: set[int]) -> None:
    assert parse_list(text) == cpus


def test_the_topology_is_what_the_kernel_says(tmp_path: Path) -> None:
    said = {
        "node/node0/cpulist": "0-1",
        "node/node1/cpulist": "2-3",
        "node/node2/cpulist": "",
        **{f"cpu/cpu{n}/topology/physical_package_id": str(n // 2) for n in range(4)},
        **{f"cpu/cpu{n}/topology/thread_siblings_list": f"{n}" for n in range(4)},
        **{f"cpu/cpu{n}/cache/index3/shared_cpu_list": "0-3" for n in range(3)},
    }
    for name, text in said.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert read_topology({1, 2, 3}, tmp_path) == Topology(
        nodes={0: frozenset({1}), 1: frozenset({2, 3})},
        sockets={1: 0, 2: 1, 3: 1},
        cores={1: 1, 2: 2, 3: 3},
        complexes={1: 0, 2: 0, 3: 0},
    )


def test_a_kernel_that_says_nothing_has_one_node(tmp_path: Path) -> None:
    found = read_topology({0, 1}, tmp_path)
    assert found.nodes == {0: frozenset({0, 1})}
    assert bind("exclusive", found, [None, None]) == ((0,), (1,))


@pytest.mark.parametrize(("text", "node"), [("1", 1), ("-1", 0), ("?", None)])
def test_the_node_of_a_gpu(tmp_path: Path, text: str, node: int | None) -> None:
    (tmp_path / "0000:17:00.0").mkdir()
    (tmp_path / "0000:17:00.0" / "numa_node").write_text(f"{text}\n")
    assert numa_node("00000000:17:00.0", tmp_path) == node
    assert numa_node("00000000:18:00.0", tmp_path) is None


def test_gpus_whose_node_is_not_known_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("")
    options = LaunchOptions(script=str(tmp_path / "x.py"))
    amd = Machine(num_gpus=2, num_cpus=4)
    plan = make_plan(options, amd)
    with pytest.raises(UsageError, match=r"--numa-binding node: it is not known .* each of 2 GPUs"):
        bind_ranks(plan, "node", amd)
    assert bind_ranks(plan, None, amd) is plan
