"""A node's connection to the store in which the nodes keep their messages.

A thread does all that touches the network, since a cut cable can hold such a call for minutes; the
supervising loop only looks at what the thread has read last.
"""

import contextlib
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ..contract.quiet_clock import QuietClock
from .mailbox import Mailbox
from .messages import Lead, NodeMessage, bundled, unbundled
from .node_texts import full_text, taken_text

TICK_S = 0.25
HURRY_TICK_S = 0.05
HURRY_S = 3.0
"""So long a node that begins to wait for the others looks at each HURRY_TICK_S: most are there."""
LOST_S = 10.0
"""A node of which nothing is heard for this time is lost. Far above TICK_S and any store call."""

CLAIM_S = 4.5 * LOST_S
"""How long a node that comes to a run under way waits for its place: its former holder, if lost, is
noticed in LOST_S, and the attempt has to end then."""

DOUBT_S = 2.0
"""A node that leads and was silent so long is not asked any more what it knows of the others."""

_LEAD = "lead"
_BUNDLE = 64
"""So many nodes' messages stand at one place: a message has a largest size."""


def silent(quiet_s: Mapping[int, float]) -> list[int]:
    """Return the nodes of which nothing was heard for LOST_S; pure."""
    return sorted(node for node, one_s in quiet_s.items() if one_s >= LOST_S)


def lost_to_follower(quiet_s: Mapping[int, float], leader: int) -> list[int]:
    """Return who is lost, as a node sees it that does not lead; pure.

    What it hears of the others comes by way of the leader. When that falls silent all do, and each
    was heard last at its own moment: none of them may be named in its stead.
    """
    gone = silent(quiet_s)
    if leader in gone:
        return [leader]
    return [] if quiet_s[leader] >= DOUBT_S else gone


class NodeLink:
    """Publishes this node's message, reads those of the others, and notices who is gone."""

    def __init__(
        self,
        connect: Callable[[], TCPStore],
        message: NodeMessage,
        *,
        num_nodes: int,
        by_arrival: bool,
        secret: bytes,
        run_id: str,
        leader: int = 0,
    ) -> None:
        """Prepare; `start` begins.

        Args:
            connect: Returns a connection of the thread's own.
            message: This node's first message.
            num_nodes: How many nodes there may be.
            by_arrival: The number of this node is not given but follows from its arrival.
            secret: What the nodes share; may be empty.
            run_id: The run's name.
            leader: The node that has the store.
        """
        self.message = replace(message, nonce=secrets.token_hex(8))
        self.others: Mapping[int, NodeMessage] = {}
        self.lead: Lead | None = None
        self.refused: str | None = None
        self.numbered = False
        """This node's number is known, and no other node's."""
        self.strange: frozenset[int] = frozenset()
        """The nodes in whose names something stands that is not of this run."""
        self._connect = connect
        self._num_nodes = num_nodes
        self._by_arrival = by_arrival
        self._secret, self._run_id = secret, run_id
        self._leader = leader
        self._leads = False
        self._arrived_in: str | None = None
        self._arriving_since: float | None = None
        self._lost_holders: Mapping[int, str] = {}
        self._freed: dict[int, str] = {}
        """Node rank to the nonce of the lost node whose place was freed last."""
        self._own_lead: Lead | None = None
        self._num_rounds = 0
        """Exchanges done; also this node's beat."""
        self._hurry_until_s = 0.0
        self._stopped = threading.Event()
        self._broken = False
        self._quiet = {node: QuietClock() for node in range(num_nodes)}
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, *, leads: bool) -> None:
        """Begin to talk; `leads`: the store is on this node."""
        self._leads = leads
        self.hurry()
        self._thread.start()

    def hurry(self) -> None:
        """Exchange messages more often for a moment: this node begins to wait for the others."""
        self._hurry_until_s = time.monotonic() + HURRY_S

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
        """Replace the leading message. Called on the leading node only."""
        self._own_lead = self.lead = lead

    def free(self, nodes: Iterable[int]) -> None:
        """Let others take the places of lost nodes. Called on the leading node only."""
        self._lost_holders = {node: self.others[node].nonce for node in nodes}

    def lost(self, now: float) -> list[int]:
        """Return the nodes of which nothing has been heard for LOST_S; called at each look.

        Time in which this process was suspended itself does not count.
        """
        beats = {node: message.beat for node, message in self.others.items()}
        # The leader holds the store: nothing can be read or written without it.
        if not self._leads:
            beats[self._leader] = self._num_rounds
        quiet_s = {node: self._quiet[node].look(now, {node: beat}) for node, beat in beats.items()}
        if self._leads:
            return silent(quiet_s)
        return [self._leader] if self._broken else lost_to_follower(quiet_s, self._leader)

    def _run(self) -> None:
        session = secrets.token_hex(16) if self._leads else None
        try:
            box = Mailbox(self._connect(), self._secret, self._run_id, session)
            while not self._stopped.is_set() and self.refused is None:
                if self._meet(box):
                    self._exchange(box)
                self._num_rounds += 1
                is_hurried = time.monotonic() < self._hurry_until_s
                self._stopped.wait(HURRY_TICK_S if is_hurried else TICK_S)
        except RuntimeError:  # torch's DistNetworkError and DistStoreError: it is gone
            self._broken = True

    def _meet(self, box: Mailbox) -> bool:
        """Take this node's place in the run; returns whether it has one."""
        if self.lead is not None and not self._leads:
            return True
        session = box.meet()
        if session is not None and session != self._arrived_in and self._arrive(box):
            self._arrived_in = session
        return session is not None and session == self._arrived_in

    def _arrive(self, box: Mailbox) -> bool:
        """Take a place that is free; returns whether this node has one now."""
        nonce, own = self.message.nonce, (self.message.node_rank,)
        for node in range(1, self._num_nodes) if self._takes_any_place else own:
            if box.claim(f"claim/{node}", nonce) == nonce:
                box.count_on(f"node/{node}")
                self.message = replace(self.message, node_rank=node)
                self.numbered = True
                return True
        now = time.monotonic()
        self._arriving_since = self._arriving_since or now
        is_under_way = (lead := _lead(box.get(_LEAD))) is not None and lead.attempt >= 0
        if is_under_way and now - self._arriving_since < CLAIM_S:
            return False
        self._refuse()
        return False

    @property
    def _takes_any_place(self) -> bool:
        return self._by_arrival and not self._leads

    def why_unnumbered(self, place: object) -> str:
        """Return why this node has no number yet, as a sentence."""
        if self._arriving_since is None:
            return f"nothing of this run is at {place}. Is it the --master-port of another?"
        if self._takes_any_place:
            return full_text(self._num_nodes)
        return taken_text(self.message.node_rank)

    def _refuse(self) -> None:
        if self._takes_any_place:
            self.refused = f"all {self._num_nodes} nodes are there already."
        else:
            number = self.message.node_rank
            self.refused = f"--node-rank {number} is taken by another node. Give each its own."

    def _exchange(self, box: Mailbox) -> None:
        message = replace(self.message, beat=self._num_rounds + 1)
        if self._leads:
            self._lead_others(box, message)
        else:
            box.put(f"node/{message.node_rank}", message.to_json())
            self._follow(box)
        self.strange = frozenset(
            int(place.partition("/")[2]) if place.startswith("node/") else self._leader
            for place in box.strange
        )

    def _lead_others(self, box: Mailbox, message: NodeMessage) -> None:
        """Read all messages, and put together what the others read of them.

        So a node that follows makes two requests, however many there are.
        """
        places = {f"node/{n}": n for n in range(self._num_nodes) if n != message.node_rank}
        texts = box.get_all(list(places))
        others = {node: found for p, node in places.items() if (found := _message(texts[p]))}
        for node, nonce in self._lost_holders.items():
            if self._freed.get(node) != nonce:
                box.free(f"claim/{node}")
                self._freed[node] = nonce
        # Who leaves has decided before: the lead is written before the leading node's own message
        # and taken before it by the others, which read both as they are at one moment.
        if self._own_lead is not None:
            heard = {str(node): other.nonce for node, other in others.items()}
            box.put(_LEAD, replace(self._own_lead, heard=heard).to_json())
        everyone = {**others, message.node_rank: message}
        for number, place in enumerate(self._bundles()):
            nodes = range(number * _BUNDLE, (number + 1) * _BUNDLE)
            box.put(place, bundled(everyone[node] for node in nodes if node in everyone))
        self.others = others

    def _bundles(self) -> list[str]:
        """Return the places where the messages of all nodes stand."""
        return [f"everyone/{n}" for n in range(math.ceil(self._num_nodes / _BUNDLE))]

    def _follow(self, box: Mailbox) -> None:
        texts = box.get_all([_LEAD, *self._bundles()])
        lead = _lead(texts[_LEAD])
        # Else it is of an earlier start, and somebody has kept it.
        if lead and lead.heard.get(str(self.message.node_rank)) == self.message.nonce:
            self.lead = lead
        others: dict[int, NodeMessage] = {}
        with contextlib.suppress(ValueError, TypeError, KeyError):
            for place in self._bundles():
                others |= unbundled(texts[place] or "[]")
            others.pop(self.message.node_rank, None)
            self.others = others


def _message(text: str | None) -> NodeMessage | None:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return None if text is None else NodeMessage.from_json(text)
    return None


def _lead(text: str | None) -> Lead | None:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return None if text is None else Lead.from_json(text)
    return None


def connect_to(addr: str, port: int, timeout_s: float) -> TCPStore:
    """Return a new connection to the store of the leading node."""
    return TCPStore(
        addr, port, is_master=False, timeout=timedelta(seconds=timeout_s), wait_for_workers=False
    )
