"""Where the ranks of one machine meet: torch's static rendezvous on a socket of our own.

The socket is bound before the store exists and handed over to it. So a free port is free by
construction, only loopback is listened on, and a taken port is a sentence and not a traceback.
"""

import errno
import socket
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous.api import RendezvousInfo, RendezvousStoreInfo
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from ..errors import UsageError
from .port_holder import describe_holder

STORE_TIMEOUT_S = 600


class LocalRendezvous(StaticTCPRendezvous):
    """One node, its store on this machine; a new store for each round.

    The ranks use the agent's store without a prefix, so keys of an earlier attempt must be gone.
    """

    def __init__(self, *, run_id: str, addr: str, port: int = 0) -> None:
        """Remember where to meet; a port of 0 means a free one in each round."""
        super().__init__(
            master_addr=addr,
            master_port=port,
            rank=0,
            world_size=1,
            run_id=run_id,
            timeout=STORE_TIMEOUT_S,
        )

    def next_rendezvous(self) -> RendezvousInfo:
        """Open the store. The caller has released the store of the round before.

        Raises:
            UsageError: The port is taken, or the address is not one of this machine.
        """
        self._store = None
        listener = bind(self.master_addr, self.master_port)
        port = listener.getsockname()[1]
        self._store = TCPStore(
            self.master_addr,
            port,
            is_master=True,
            timeout=timedelta(seconds=STORE_TIMEOUT_S),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        store = PrefixStore(self.run_id, self._store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(self.master_addr, port))

    def shutdown(self) -> bool:
        """Close the store's port."""
        self._store = None
        return True


def bind(addr: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        UsageError: The port is taken, or the address is not one of this machine.
    """
    try:
        family, kind, _, _, where = socket.getaddrinfo(addr, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
    except OSError as error:
        raise UsageError(
            f"--master-addr {addr} cannot be resolved ({error.strerror}). On one machine leave it "
            "out: the ranks meet on 127.0.0.1. On several pass an address of node 0."
        ) from error
    try:
        # A port of the attempt before may still have connections in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(2048)
        _require_route(family, listener.getsockname())
    except OSError as error:
        listener.close()
        raise UsageError(_cannot_be_used(addr, port, error)) from error
    return listener


def _require_route(family: int, where: tuple[object, ...]) -> None:
    """Refuse an address to which this machine has no way itself: torch would try for ten minutes.

    Raises:
        OSError: ENETUNREACH, as in a sandbox in which not even the loopback interface is up.
    """
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        way.connect(where)  # nothing is sent


def _cannot_be_used(addr: str, port: int, error: OSError) -> str:
    given = f"--master-addr {addr} --master-port {port} cannot be used"
    if error.errno == errno.ENETUNREACH:
        return (
            f"the ranks cannot meet on {addr}: this machine has no route to it, although it is "
            "its own address. Is the loopback interface down? Run: ip link set lo up"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return (
            f"{given}: {addr} is no address of this machine. On one machine leave it out; on "
            "several it is that of node 0, and this node has --node-rank 0."
        )
    if error.errno == errno.EADDRINUSE:
        holder = describe_holder(port)
        return (
            f"{given}: the port is taken{f' by {holder}' if holder else ''}. Pass another "
            "--master-port (0: a free one, on one machine)."
        )
    return f"{given} ({error.strerror}). Pass another --master-port."
