"""The place where the nodes meet, as one of them sees it: its link, who is there, and its waits."""

import socket
import time
from collections.abc import Callable
from dataclasses import replace

from ..contract.interrupted import Interrupted
from ..contract.launcher_signals import SignalInbox
from ..errors import StartError, UsageError
from ..plan.launch_plan import LaunchPlan
from .leader_store import STORE_S, StoreAddress
from .members.late_nodes import digest_of_program, versions
from .members.membership import Membership
from .messages import NodeMessage
from .node_link import NodeLink, connect_to
from .node_texts import waiting_text
from .reminder import Reminder

POLL_S = 0.05


class Meeting:
    """Where this node meets the others: at first on node 0, elsewhere once another one leads."""

    def __init__(self, plan: LaunchPlan, inbox: SignalInbox, say: Callable[[str], None]) -> None:
        """See NodeSession."""
        self._plan = plan
        self._nodes = plan.nodes
        self._inbox = inbox
        self._say = say
        self.place = StoreAddress(node=0, addr=plan.master_addr, port=plan.master_port)
        """Where the nodes meet."""
        message = NodeMessage(
            node_rank=self._nodes.node_rank or 0,
            host=socket.gethostname(),
            nnodes=f"{self._nodes.num_min}:{self._nodes.num_max}",
            local_world_size=plan.local_world_size,
            program=digest_of_program(plan),
            versions=versions() if plan.uses_run else "",
        )
        self.link = self._link_to(self.place, message, self._nodes.node_rank is None)
        self.roster = Membership(self.link, self.place, say)

    def _link_to(self, place: StoreAddress, message: NodeMessage, by_arrival: bool) -> NodeLink:
        return NodeLink(
            lambda: connect_to(place.addr, place.port, STORE_S),
            message,
            num_nodes=self._nodes.num_max,
            by_arrival=by_arrival,
            secret=self._plan.secret.value,
            run_id=self._nodes.run_id or "",
            leader=place.node,
        )

    def move_to(self, place: StoreAddress, *, leads: bool) -> None:
        """Meet the others at another place, which this node leads or not."""
        message = self.link.message
        self.link.stop(0.1)
        self.place = place
        self.link = self._link_to(place, message, by_arrival=False)
        self.roster = Membership(self.link, place, self._say, self.roster)
        self.link.start(leads=leads)

    @property
    def leads(self) -> bool:
        """Whether this node has the store."""
        return self.roster.node_rank == self.place.node

    def is_lost(self, node: int) -> bool:
        """Return whether nothing is heard of a node any more."""
        return node in self.roster.lost()

    def unfinished(self, attempt: int) -> list[int]:
        """Return the other members of which it is not known how an attempt ended there."""
        roster = self.roster
        return [node for node in roster.others if not roster.end_of(node, attempt)]

    def missing(self, waited_s: float) -> str:
        """Return the sentence about the nodes that have not come yet."""
        return self.roster.missing(self._nodes.num_max, waited_s)

    def remind(self, reminder: Reminder, nodes: list[int]) -> None:
        """Wait briefly; report regularly for which nodes this node waits."""
        hosts = self.roster.hosts()
        ranks_of = {node: hosts.get(node, "?") for node in nodes}
        reminder.remind(waiting_text(ranks_of, reminder.waited_s))
        time.sleep(POLL_S)

    def share_warning(self) -> None:
        """Forward a notice that came here to the others, and accept one that came to them."""
        mine, inbox = self.link.message, self._inbox
        causes = (m.warned_by for m in self.link.others.values() if m.warned_by is not None)
        if inbox.warned_by is None:
            inbox.warned_by = next(causes, None)
        # Before that the link's thread may be about to write the number into the message.
        if self.link.numbered and inbox.warned_by is not None and mine.warned_by is None:
            self.link.publish(replace(mine, warned_by=inbox.warned_by))

    def check_inbox(self) -> None:
        """Raise Interrupted where any node has got a notice."""
        self.share_warning()
        if self._inbox.warned_by is not None:
            raise Interrupted(self._inbox.warned_by)

    def wait(
        self,
        condition: Callable[[], bool],
        describe: Callable[[float], str] | None = None,
        timeout_s: float = STORE_S,
        *,
        watch_all: bool = True,
    ) -> None:
        """Wait for a condition.

        Args:
            condition: What is waited for.
            describe: Returns why that takes so long, from the seconds so far.
            timeout_s: How long to wait at most.
            watch_all: The loss of any node ends the run; else only that of the leading one.

        Raises:
            StartError: The time is over, or a node is lost.
            UsageError: This node may not take part.
            Interrupted: The run was asked to end meanwhile.
        """
        reminder = Reminder(self._say)
        self.link.hurry()
        while True:
            self.check_inbox()  # first: who has left for a notice is no loss
            if condition():
                return
            if self.link.refused is not None:
                raise UsageError(self.link.refused)
            for node in self.roster.lost():
                if watch_all or node == self.place.node:
                    raise StartError(self.roster.lost_sentence(node))
            waited_s = reminder.waited_s
            text = "the other nodes did not answer." if describe is None else describe(waited_s)
            if waited_s >= timeout_s:
                raise StartError(f"gave up: {text}")
            if describe is not None:
                reminder.remind(text)
            time.sleep(POLL_S)
