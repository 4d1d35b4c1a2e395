"""The place where the nodes meet: a store on the leading node, reached from elsewhere.

That is node 0. Each other node keeps a port free where they could meet without it.
"""

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ..errors import StartError, UsageError
from ..plan.options import NodeOptions
from .local import bind
from .reminder import Reminder

STORE_S = 60.0
"""How long one call to the store may take."""
RESOLVE_S = 60.0
"""How long node 0 waits until its own name can be resolved."""
_CONNECT_S = 5.0
_PAUSE_S = 0.2
_LOOK_S = 0.05
_MAX_THREADS = 128


@dataclass(frozen=True, kw_only=True)
class StoreAddress:
    """Where the nodes meet."""

    node: int
    """The one that leads."""
    addr: str
    port: int

    def __str__(self) -> str:
        return f"{self.addr}:{self.port}"

    def answers(self) -> bool:
        """Return whether somebody listens there."""
        return self.why_not() is None

    def is_closed(self) -> bool:
        """Return whether its machine reports a closed port, so that its launcher has ended."""
        return isinstance(self.why_not(), ConnectionRefusedError)

    def why_not(self) -> OSError | None:
        """Knock; return what went wrong, None where somebody listens."""
        try:
            socket.create_connection((self.addr, self.port), timeout=_CONNECT_S).close()
        except OSError as error:
            return error
        return None


def answering(places: Iterable[StoreAddress]) -> dict[int, StoreAddress]:
    """Return the places where somebody listens, by their nodes; all are asked at once."""
    asked = list(places)
    if not asked:
        return {}
    with ThreadPoolExecutor(min(len(asked), _MAX_THREADS)) as threads:
        answers = threads.map(StoreAddress.answers, asked)
        return {place.node: place for place, here in zip(asked, answers, strict=True) if here}


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


def open_when_resolved(
    nodes: NodeOptions,
    place: StoreAddress,
    *,
    say: Callable[[str], None],
    check: Callable[[], None],
) -> TCPStore | None:
    """Do what `open_if_here` does; wait a moment for the name of node 0.

    A new pod's name is known to the name server only some seconds after the pod has begun.

    Args:
        nodes: The options.
        place: On node 0.
        say: Told now and then what is waited for.
        check: Called again and again; raises to end the wait.

    Raises:
        UsageError: As `open_if_here`; for a name that cannot be resolved after RESOLVE_S.
    """
    reminder, timeout_s = Reminder(say), min(RESOLVE_S, nodes.join_timeout_s)
    while True:
        check()
        try:
            return open_if_here(nodes, place.addr, place.port)
        except UsageError as error:
            cause = error.__cause__
            if not isinstance(cause, socket.gaierror) or reminder.waited_s >= timeout_s:
                raise
            text = _reason(cause, place.addr)
        reminder.remind(f"waiting for node 0's name: {text}. Trying again for {timeout_s:g} s.")
        time.sleep(_PAUSE_S)


def reach(
    place: StoreAddress,
    *,
    timeout_s: float,
    say: Callable[[str], None],
    check: Callable[[], None],
) -> None:
    """Wait until somebody listens there.

    Args:
        place: On node 0.
        timeout_s: How long to wait.
        say: Told now and then why nobody is there yet.
        check: Called again and again; raises to end the wait.

    Raises:
        StartError: Nobody did in time.
    """
    reminder = Reminder(say)
    while (error := _knock(place, check)) is not None:
        text = f"node 0 is not at {place}: {_reason(error, place.addr)}."
        sentence = f"{text} Trying again for {timeout_s:g} s."
        if reminder.waited_s >= timeout_s:
            raise StartError(
                f"{text} Waited {reminder.waited_s:.0f} s. Start the same command on node 0, with "
                "--node-rank 0 and the same --master-addr and --master-port."
            )
        reminder.remind(sentence)
        check()
        time.sleep(_PAUSE_S)


def _knock(place: StoreAddress, check: Callable[[], None]) -> OSError | None:
    """Return what `why_not` says; neither a name server nor a firewall holds a notice up."""
    said: list[OSError | None] = []
    thread = threading.Thread(target=lambda: said.append(place.why_not()), daemon=True)
    thread.start()
    while thread.is_alive():
        check()
        thread.join(_LOOK_S)
    return said[0] if said else OSError(f"{place.addr} is no address")


def _reason(error: OSError, addr: str) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name {addr} cannot be resolved ({error.strerror})"
    if isinstance(error, TimeoutError):
        return "no answer; is a firewall between, or the address wrong?"
    return (error.strerror or str(error)).lower()
