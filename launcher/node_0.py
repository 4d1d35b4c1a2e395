"""The place where the nodes meet: a store on node 0, opened there and reached from elsewhere."""

import errno
import socket
import time
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from .errors import StartError, UsageError
from .options import NodeOptions
from .reminder import Reminder
from .rendezvous import bind

STORE_S = 60.0
"""How long one call to the store may take."""
_CONNECT_S = 5.0
_PAUSE_S = 0.2


def serve(addr: str, listener: socket.socket) -> TCPStore:
    """Return a store that listens on the socket."""
    return TCPStore(
        addr,
        listener.getsockname()[1],
        is_master=True,
        timeout=timedelta(seconds=STORE_S),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def open_if_here(nodes: NodeOptions, addr: str, port: int) -> TCPStore | None:
    """Open the store if this is node 0; None where another one is.

    Raises:
        UsageError: This is node 0, and the port or the address cannot be used.
    """
    if nodes.node_rank not in (0, None):
        return None
    try:
        listener = bind(addr, port)
    except UsageError as error:
        # Without --node-rank the node that has the address, and comes first, is node 0.
        cause = error.__cause__
        known = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
        is_elsewhere = isinstance(cause, OSError) and cause.errno in known
        if nodes.node_rank is None and is_elsewhere:
            return None
        raise
    return serve(addr, listener)


def reach(
    addr: str,
    port: int,
    *,
    timeout_s: float,
    say: Callable[[str], None],
    check: Callable[[], None],
) -> None:
    """Wait until somebody listens there.

    Args:
        addr: Of node 0.
        port: Its port.
        timeout_s: How long to wait.
        say: Told now and then why nobody is there yet.
        check: Called again and again; raises to end the wait.

    Raises:
        StartError: Nobody did in time.
    """
    reminder = Reminder(say)
    while (reason := _why_not(addr, port)) is not None:
        text = f"node 0 is not at {addr}:{port}: {reason}."
        sentence = f"{text} Trying again for {timeout_s:g} s."
        if reminder.waited_s >= timeout_s:
            raise StartError(
                f"{text} Waited {reminder.waited_s:.0f} s. Start the same command on node 0, with "
                "--node-rank 0 and the same --master-addr and --master-port."
            )
        reminder.remind(sentence)
        check()
        time.sleep(_PAUSE_S)


def _why_not(addr: str, port: int) -> str | None:
    try:
        socket.create_connection((addr, port), timeout=_CONNECT_S).close()
        return None
    except socket.gaierror as error:
        return f"the name {addr} cannot be resolved ({error.strerror})"
    except TimeoutError:
        return "no answer; is a firewall between, or the address wrong?"
    except OSError as error:
        return (error.strerror or str(error)).lower()
