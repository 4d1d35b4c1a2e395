"""How several nodes come together, agree on each attempt, and part.

Node 0 holds the store and decides; the others follow. Every wait ends when a node is lost.
"""

import errno
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from .errors import Interrupted, StartError, UsageError
from .node_link import NodeLink, connect_to
from .node_messages import (
    Lead,
    NodeEnd,
    NodeMessage,
    bounded,
    lost_text,
    missing_text,
    refusal,
    seen_elsewhere,
    strange_text,
    waiting_text,
)
from .plan import LaunchPlan
from .rendezvous import bind
from .signal_inbox import SignalInbox
from .supervision import Elsewhere

POLL_S = 0.05
REMIND_S = 30.0
"""How often it is said for whom a node waits."""
PATIENCE_S = 3.0
"""Before it is said the first time: nodes are never started at the same moment."""
LAST_CALL_S = 30.0
"""With MIN:MAX nodes: how long the others are waited for once MIN are there; torchrun's."""
PART_S = 5.0
SETTLE_S = 2.0
STORE_S = 60.0

Decide = Callable[[int, Mapping[int, NodeEnd], list[int]], Lead]


class Meeting:
    """This node's part in a run of several nodes."""

    def __init__(self, plan: LaunchPlan, inbox: SignalInbox, say: Callable[[str], None]) -> None:
        self._nodes = plan.nodes
        self._addr, self._port = plan.master_addr, plan.master_port
        self._inbox = inbox
        self._say = say
        self._server: TCPStore | None = None
        self._store: TCPStore | None = None
        self._announced_lost: set[int] = set()
        self._announced_strange: set[int] = set()
        self._reminded_at = 0.0
        self._attempt = -1
        nnodes = f"{self._nodes.num_min}:{self._nodes.num_max}"
        self._link = NodeLink(
            lambda: connect_to(self._addr, self._port, STORE_S),
            NodeMessage(
                node_rank=self._nodes.node_rank or 0,
                host=socket.gethostname(),
                nnodes=nnodes,
                local_world_size=plan.local_world_size,
            ),
            num_nodes=self._nodes.num_max,
            by_arrival=self._nodes.node_rank is None,
            secret=plan.secret.value,
            run_id=self._nodes.run_id or "",
        )

    def join(self) -> None:
        """Meet the other nodes.

        Raises:
            UsageError: This node cannot take part as it was started.
            StartError: The others did not come, or node 0 cannot be reached.
            Interrupted: The run was asked to end meanwhile.
        """
        leads = self._open_server()
        if not leads:
            self._reach_node_0()
        self._link.start(leads=leads)
        self._wait(lambda: self._link.numbered, lambda waited_s: self._no_answer)
        if leads:
            self._gather()

    @property
    def node_rank(self) -> int:
        """This node's number."""
        return self._link.message.node_rank

    @property
    def members(self) -> tuple[int, ...]:
        """The nodes that take part, in the order of their ranks."""
        assert self._link.lead is not None
        return self._link.lead.members

    def hosts(self) -> dict[int, str]:
        """Return the names of the nodes' machines."""
        messages = {**self._link.others, self.node_rank: self._link.message}
        return {node: message.host for node, message in messages.items()}

    def open_attempt(self) -> tuple[TCPStore, int]:
        """Return the store in which the ranks of the next attempt meet, and its port.

        Raises:
            StartError: A node was lost.
            UsageError: Node 0 does not let this node take part.
        """
        self._attempt = attempt = self._attempt + 1
        self._link.publish(replace(self._link.message, attempt=attempt, end=None))
        if self.node_rank == 0:
            assert self._link.lead is not None
            members = self._link.lead.members
            self._wait(lambda: all(self._is_at(node, attempt) for node in members if node))
            listener = bind(self._addr, 0)
            port = listener.getsockname()[1]
            self._store = _serve(self._addr, listener)
            refused = self._link.lead.refused
            self._link.publish_lead(
                Lead(attempt=attempt, members=members, port=port, refused=refused)
            )
            return self._store, port
        self._wait(lambda: self._is_led(attempt), self._waits_for, self._nodes.join_timeout_s)
        assert self._link.lead is not None
        return connect_to(self._addr, self._link.lead.port, STORE_S), self._link.lead.port

    def close_attempt(self) -> None:
        """Let go of the ranks' store."""
        self._store = None

    def elsewhere(self) -> Elsewhere:
        """Return what has happened on the other nodes; called at each look.

        Warnings travel both ways: one that came to any node is one for all.
        """
        mine = self._link.message
        if self._inbox.warned_by is not None and mine.warned_by is None:
            self._link.publish(replace(mine, warned_by=self._inbox.warned_by))
        for message in self._link.others.values():
            if message.warned_by is not None and self._inbox.warned_by is None:
                self._inbox.warned_by = message.warned_by
        for node in self._lost():
            self._announce(node)
        for node in self._link.strange - self._announced_strange:
            self._announced_strange.add(node)
            self._say(strange_text((node,), self._place))
        return seen_elsewhere(
            self._link.others,
            attempt=self._attempt,
            members=self.members,
            num_lost=len(self._announced_lost.intersection(self.members)),
        )

    def end_attempt(self, end: NodeEnd, decide: Decide) -> Lead | None:
        """Tell how the attempt ended here; return what node 0 decides from all the ends.

        None: node 0 is lost, or a second Ctrl-C came; nothing was decided.

        Args:
            end: Of this node.
            decide: From the ends and the lost nodes to the decision; called on node 0 only.
        """
        attempt = self._attempt
        self._link.publish(replace(self._link.message, end=bounded(end)))
        began = self._reminded_at = time.monotonic()
        if self.node_rank == 0:
            others = [node for node in self.members if node != 0]
            while not self._inbox.kill_now:
                lost = self._lost()
                there = [n for n in others if n not in lost and not self._end_of(n, attempt)]
                if not there:
                    break
                self._remind(there, time.monotonic() - began)
            ends = {node: its for node in others if (its := self._end_of(node, attempt))}
            lead = decide(attempt, {0: self._link.message.end or end, **ends}, self._lost())
            self._link.publish_lead(lead)
            return lead
        while not self._inbox.kill_now:
            lead_now = self._link.lead
            if lead_now is not None and lead_now.attempt == attempt and lead_now.decided:
                return lead_now
            if self.is_lost(0):
                return None
            there = [
                n for n in self.members if n != self.node_rank and not self._end_of(n, attempt)
            ]
            self._remind(there or [0], time.monotonic() - began)
        return None

    def is_lost(self, node: int) -> bool:
        """Return whether nothing is heard of a node any more."""
        return node in self._lost()

    def part(self) -> None:
        """Leave; node 0 stays a moment so that the others can read what it decided."""
        if self.node_rank == 0 and self._link.lead is not None:
            end = time.monotonic() + PART_S
            while time.monotonic() < end and not all(
                node in self._lost() or self._link.others[node].leaves for node in self._link.others
            ):
                time.sleep(POLL_S)
        self._link.publish(replace(self._link.message, leaves=True))
        # Without node 0 nothing can be sent any more, and a call to it may hang for a minute.
        self._link.stop(0.1 if self.is_lost(0) else SETTLE_S)
        self._store = self._server = None

    # ------------------------------------------------------------------ coming together

    def _open_server(self) -> bool:
        """Open the store if this is node 0; return whether it is."""
        if self._nodes.node_rank not in (0, None):
            return False
        try:
            listener = bind(self._addr, self._port)
        except UsageError as error:
            # Without --node-rank the node that has the address, and comes first, is node 0.
            cause = error.__cause__
            known = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
            is_elsewhere = isinstance(cause, OSError) and cause.errno in known
            if self._nodes.node_rank is None and is_elsewhere:
                return False
            raise
        self._server = _serve(self._addr, listener)
        return True

    def _reach_node_0(self) -> None:
        began, reminded_s = time.monotonic(), PATIENCE_S - REMIND_S
        while True:
            try:
                socket.create_connection((self._addr, self._port), timeout=5.0).close()
                return
            except socket.gaierror as error:
                reason = f"the name {self._addr} cannot be resolved ({error.strerror})"
            except TimeoutError:
                reason = "no answer; is a firewall between, or the address wrong?"
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
            waited_s = time.monotonic() - began
            text = f"node 0 is not at {self._addr}:{self._port}: {reason}."
            if waited_s >= self._nodes.join_timeout_s:
                raise StartError(
                    f"{text} Waited {waited_s:.0f} s. Start the same command on node 0, with "
                    "--node-rank 0 and the same --master-addr and --master-port."
                )
            if waited_s - reminded_s >= REMIND_S:
                reminded_s = waited_s
                self._say(f"{text} Trying again for {self._nodes.join_timeout_s:g} s.")
            self._check_inbox()
            time.sleep(0.2)

    def _gather(self) -> None:
        """Wait for the nodes on node 0, and publish who takes part."""
        refused: dict[str, str] = {}
        enough_since: float | None = None

        def coming() -> list[int]:
            others = self._link.others.items()
            return sorted(n for n, m in others if str(n) not in refused and not m.leaves)

        def complete() -> bool:
            nonlocal enough_since
            for node, message in self._link.others.items():
                if str(node) not in refused and (why := refusal(self._link.message, message)):
                    refused[str(node)] = why
                    self._say(f"node {node} ({message.host}) may not take part: {why}")
                    self._link.publish_lead(
                        Lead(attempt=-1, members=(0,), port=0, refused=dict(refused))
                    )
            num_here = 1 + len(coming())
            if num_here >= self._nodes.num_max:
                return True
            if num_here < self._nodes.num_min:
                enough_since = None
                return False
            enough_since = enough_since or time.monotonic()
            return time.monotonic() - enough_since >= LAST_CALL_S

        self._wait(complete, self._waits_for, self._nodes.join_timeout_s)
        members = (0, *coming())
        self._link.publish_lead(Lead(attempt=-1, members=members, port=0, refused=refused))

    def _waits_for(self, waited_s: float) -> str:
        here = {*self._link.others, self.node_rank}
        missing = [node for node in range(self._nodes.num_max) if node not in here]
        text = f"waiting for node 0 to begin, {waited_s:.0f} s so far."
        if missing:
            text = missing_text(missing, self._nodes.num_max, waited_s, self._place)
        strange = sorted(self._link.strange)
        return f"{text} But {strange_text(strange, self._place)}" if strange else text

    @property
    def _place(self) -> str:
        return f"{self._addr}:{self._port}"

    @property
    def _no_answer(self) -> str:
        return f"nothing of this run is at {self._place}. Is it the --master-port of another?"

    # ------------------------------------------------------------------ looking

    def _is_at(self, node: int, attempt: int) -> bool:
        message = self._link.others.get(node)
        return message is not None and message.attempt == attempt and message.end is None

    def _is_led(self, attempt: int) -> bool:
        lead, node_0 = self._link.lead, self._link.others.get(0)
        if node_0 is not None and node_0.leaves:
            raise StartError("node 0 has left the run.")
        if lead is None:
            return False
        if (why := lead.refused.get(str(self.node_rank))) is not None:
            raise UsageError(f"node 0 refuses this node: {why}")
        if lead.attempt == attempt and self.node_rank not in lead.members:
            raise StartError("the run goes on without this node: it was taken for lost.")
        return lead.attempt == attempt and not lead.decided

    def _end_of(self, node: int, attempt: int) -> NodeEnd | None:
        message = self._link.others.get(node)
        return message.end if message is not None and message.attempt == attempt else None

    def _lost(self) -> list[int]:
        lead = self._link.lead
        left = {node for node, message in self._link.others.items() if message.leaves}
        silent = set(self._link.lost(time.monotonic())) - left
        if lead is None or lead.attempt < 0:
            return sorted(silent)
        # To leave before it was decided that the attempt is over is to be lost to it.
        return sorted((silent if lead.decided else silent | left).intersection(lead.members))

    def _announce(self, node: int) -> None:
        if node not in self._announced_lost:
            self._announced_lost.add(node)
            self._say(f"{lost_text(node, self.hosts().get(node))} Ending the ranks here.")

    def _remind(self, nodes: list[int], waited_s: float) -> None:
        """Let a moment pass; say now and then for whom this node waits."""
        now = time.monotonic()
        if now - self._reminded_at >= REMIND_S:
            self._reminded_at = now
            hosts = self.hosts()
            self._say(waiting_text({node: hosts.get(node, "?") for node in nodes}, waited_s))
        time.sleep(POLL_S)

    def _check_inbox(self) -> None:
        if self._inbox.warned_by is not None:
            raise Interrupted(self._inbox.warned_by)

    def _wait(
        self,
        condition: Callable[[], bool],
        describe: Callable[[float], str] | None = None,
        timeout_s: float = STORE_S,
    ) -> None:
        began, reminded_s = time.monotonic(), PATIENCE_S - REMIND_S
        while not condition():
            self._check_inbox()
            if self._link.refused is not None:
                raise UsageError(self._link.refused)
            for node in self._lost():
                raise StartError(lost_text(node, self.hosts().get(node)))
            waited_s = time.monotonic() - began
            text = "the other nodes did not answer." if describe is None else describe(waited_s)
            if waited_s >= timeout_s:
                raise StartError(f"gave up: {text}")
            if describe is not None and waited_s - reminded_s >= REMIND_S:
                reminded_s = waited_s
                self._say(text)
            time.sleep(POLL_S)


def _serve(addr: str, listener: socket.socket) -> TCPStore:
    """Return a store that listens on the socket."""
    return TCPStore(
        addr,
        listener.getsockname()[1],
        is_master=True,
        timeout=timedelta(seconds=STORE_S),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
