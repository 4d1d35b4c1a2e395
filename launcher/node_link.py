"""A node's connection to the store in which the nodes keep their messages.

A thread does all that touches the network, since a cut cable can hold such a call for minutes; the
supervising loop only looks at what the thread has read last.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from .hang import QuietClock
from .node_messages import Lead, NodeMessage

TICK_S = 0.25
LOST_S = 10.0
"""A node of which nothing is heard for this time is lost. Far above TICK_S and any store call."""

_LEAD = "lead"
_ARRIVALS = "arrivals"


class NodeLink:
    """Publishes this node's message, reads those of the others, and notices who is gone."""

    def __init__(
        self,
        connect: Callable[[], TCPStore],
        message: NodeMessage,
        *,
        num_nodes: int,
        by_arrival: bool,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            connect: Returns a connection of the thread's own.
            message: This node's first message.
            num_nodes: How many nodes there may be.
            by_arrival: The number of this node is not given but follows from its arrival.
        """
        self.message = message
        self.others: Mapping[int, NodeMessage] = {}
        self.lead: Lead | None = None
        self.refused: str | None = None
        self.numbered = not by_arrival
        """This node's number is known."""
        self._connect = connect
        self._num_nodes = num_nodes
        self._own_lead: Lead | None = None
        self._num_rounds = 0
        """Exchanges done; also this node's beat."""
        self._stopped = threading.Event()
        self._broken = False
        self._quiet = {node: QuietClock() for node in range(num_nodes)}
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to talk."""
        self._thread.start()

    def stop(self, bound_s: float = 2.0) -> None:
        """Send what is still to be sent, and end."""
        self.settle(bound_s)
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=bound_s)

    def settle(self, bound_s: float) -> None:
        """Wait until what was published before this call has been sent, or the time is over."""
        wanted, end = self._num_rounds + 2, time.monotonic() + bound_s
        while self._num_rounds < wanted and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(0.02)

    def publish(self, message: NodeMessage) -> None:
        """Replace this node's message."""
        self.message = message

    def publish_lead(self, lead: Lead) -> None:
        """Replace the leading message. Called on node 0 only."""
        self._own_lead = self.lead = lead

    def lost(self, now: float) -> list[int]:
        """Return the nodes of which nothing has been heard for LOST_S; called at each look.

        Time in which this process was suspended itself does not count.
        """
        me = self.message.node_rank
        beats = {node: message.beat for node, message in self.others.items()}
        # Node 0 holds the store: nothing can be read or written without it.
        if me != 0:
            beats[0] = self._num_rounds
        quiet_s = {
            node: self._quiet[node].look(now, {node: beat})
            for node, beat in beats.items()
            if node != me
        }
        gone = [node for node, silent_s in quiet_s.items() if silent_s >= LOST_S]
        if me != 0 and (self._broken or 0 in gone):
            return [0]
        return sorted(gone)

    def _run(self) -> None:
        try:
            store = self._connect()
            self._arrive(store)
            while not self._stopped.is_set() and self.refused is None:
                self._exchange(store)
                self._num_rounds += 1
                self._stopped.wait(TICK_S)
        except RuntimeError:  # torch's DistNetworkError and DistStoreError: node 0 is gone
            self._broken = True

    def _arrive(self, store: TCPStore) -> None:
        node = self.message.node_rank
        if not self.numbered:
            node = store.add(_ARRIVALS, 1)
            self.message = replace(self.message, node_rank=node)
            self.numbered = True
        if node >= self._num_nodes:
            self.refused = f"all {self._num_nodes} nodes are there already."
        elif store.add(f"claim/{node}", 1) > 1:
            self.refused = f"--node-rank {node} is taken by another node. Give each its own."

    def _exchange(self, store: TCPStore) -> None:
        message = replace(self.message, beat=self._num_rounds + 1)
        store.set(f"node/{message.node_rank}", message.to_json())
        if self._own_lead is not None:
            store.set(_LEAD, self._own_lead.to_json())
        elif store.check([_LEAD]):
            self.lead = Lead.from_json(store.get(_LEAD).decode())
        others = {}
        for node in range(self._num_nodes):
            if node == message.node_rank or not store.check([f"node/{node}"]):
                continue
            # Who writes something else here is not of this run.
            with contextlib.suppress(ValueError, TypeError, KeyError):
                others[node] = NodeMessage.from_json(store.get(f"node/{node}").decode())
        self.others = others


def connect_to(addr: str, port: int, timeout_s: float) -> TCPStore:
    """Return a new connection to node 0's store."""
    return TCPStore(
        addr, port, is_master=False, timeout=timedelta(seconds=timeout_s), wait_for_workers=False
    )
