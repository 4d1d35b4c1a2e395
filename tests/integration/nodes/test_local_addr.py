"""Hosts with two networks: the ranks talk in the one that --local-addr names."""

from typing import Any

import pytest

from launcher.commands.rehearse.network import ip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SUMS = """
import torch, torch.distributed as dist

def received():
    lines = pathlib.Path("/proc/self/net/dev").read_text().splitlines()[2:]
    pairs = (line.split(":") for line in lines)
    return {name.strip(): int(counts.split()[0]) for name, counts in pairs}

before = received()
dist.init_process_group("gloo")
for _ in range(4):
    dist.all_reduce(torch.ones(1 << 20))
busy = [name for name, count in received().items() if count - before[name] > 1 << 20]
print(busy == [os.environ["GLOO_SOCKET_IFNAME"]], busy)
dist.destroy_process_group()
"""


def lay_second_cables(hosts: Any, num: int) -> list[str]:
    """Join the first hosts by a second network; return their addresses in it."""
    switch = hosts.network.switch
    ip("-n", switch, "link", "add", "second", "type", "bridge")
    ip("-n", switch, "link", "set", "second", "up")
    addresses = [f"10.231.8.{host + 1}" for host in range(num)]
    for name, cable, address in zip(hosts.names, hosts.cables, addresses, strict=False):
        second, plug = f"{cable}x", f"{cable}q"
        ip("-n", switch, "link", "add", plug, "type", "veth", "peer", "name", second)
        ip("-n", switch, "link", "set", second, "netns", name)
        ip("-n", switch, "link", "set", plug, "master", "second")
        ip("-n", switch, "link", "set", plug, "up")
        ip("-n", name, "address", "add", f"{address}/24", "dev", second)
        ip("-n", name, "link", "set", second, "up")
    return addresses


def test_the_ranks_use_the_network_of_local_addr(hosts: Any) -> None:
    """The nodes meet at an address of the other network."""
    script = hosts.script(SUMS)
    addresses = lay_second_cables(hosts, 2)
    nodes = [hosts.static(h, "--local-addr", addresses[h], script) for h in (0, 1)]
    assert [node.wait(200) for node in nodes] == [0, 0], [node.stderr for node in nodes]
    for host, node in enumerate(nodes):
        assert f"True ['{hosts.cables[host]}x']" in node.stdout
