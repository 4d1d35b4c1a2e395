"""Where the agents of a job's nodes meet: an address of the first node that the others reach."""

import contextlib
import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence

from ..errors import StartError
from ..rendezvous.network import own_address

PORTS_TRIED = 50

Resolve = Callable[[str], str | None]


def resolve(name: str) -> str | None:
    """Return the address of a name, None where it has none."""
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return None


def find_address(
    nodes: Sequence[str],
    *,
    is_first: bool,
    node_addr: Resolve,
    resolve: Resolve = resolve,
    own_address: Resolve = own_address,
) -> str:
    """Return the first node's address.

    Args:
        nodes: In Slurm's order.
        is_first: This process runs on the first node.
        node_addr: From a node's name to the name or address under which Slurm itself reaches it.
        resolve: From a name to an address.
        own_address: From another machine's address to this one's on the way there.

    Raises:
        StartError: It cannot be found out.
    """

    def addresses(name: str) -> Iterator[str]:
        if (found := resolve(name)) is not None:
            yield found
        if (known := node_addr(name)) is not None and (found := resolve(known)) is not None:
            yield found

    found = list(addresses(nodes[0]))
    if not found:
        raise StartError(
            f"the name of the first node, {nodes[0]}, cannot be resolved here. Pass --master-addr "
            "with an address of it that the other nodes reach."
        )
    beyond = [address for address in found if not _is_loopback(address)]
    if beyond:
        return beyond[0]
    # Some hosts know their own name as 127.0.1.1, where nobody else can come.
    if is_first:
        for other in nodes[1:]:
            for address in addresses(other):
                if not _is_loopback(address) and (mine := own_address(address)) is not None:
                    return mine
    return found[0]


def free_port(address: str, wanted: int) -> int:
    """Return the wanted port of this machine, or the next one that nobody listens on."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in range(wanted, wanted + PORTS_TRIED):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            return port
    return wanted  # the agent will say who holds it


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
