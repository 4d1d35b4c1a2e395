"""Which of this machine's interfaces the ranks use to reach each other."""

import contextlib
import fcntl
import socket
import struct

from ..plan.launch_plan import LOOPBACK, LaunchPlan

_SIOCGIFADDR = 0x8915


def interface_of_run(plan: LaunchPlan) -> str | None:
    """Return the interface towards the place where the ranks meet, None where it is not known."""
    if plan.master_addr == LOOPBACK:
        return "lo"
    address = plan.nodes.local_addr or own_address(plan.master_addr)
    return None if address is None else interface_with(address)


def own_address(peer: str) -> str | None:
    """Return this machine's address on the way to another; sends nothing."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(where)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def interface_with(address: str) -> str | None:
    """Return the name of the interface that has the IPv4 address (or host name) of this machine."""
    try:
        address = socket.gethostbyname(address)
    except OSError:
        return None
    if address.startswith("127."):
        return "lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no IPv4 address
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None
