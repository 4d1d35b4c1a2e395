"""What this node sees of the others: how far each one is, and who is lost."""

import time
from collections.abc import Callable

from ..leader_store import StoreAddress
from ..messages import NodeEnd
from ..node_link import NodeLink
from ..node_texts import lost_text, missing_text, strange_text


class Membership:
    """Reads the link's last messages, and reports each loss once."""

    def __init__(
        self,
        link: NodeLink,
        place: StoreAddress,
        say: Callable[[str], None],
        former: "Membership | None" = None,
    ) -> None:
        """Prepare.

        Args:
            link: To the place where the nodes meet.
            place: That place.
            say: Told of losses and of strange messages.
            former: Of the place where the nodes met before.
        """
        self._link = link
        self._place = place
        self._say = say
        self._former = former
        self._told_lost: set[int] = set()
        self._told_strange: set[int] = set()

    @property
    def node_rank(self) -> int:
        """This node's number."""
        return self._link.message.node_rank

    @property
    def members(self) -> tuple[int, ...]:
        """The nodes that take part, in the order of their ranks."""
        if self._link.lead is None and self._former is not None:
            return self._former.members
        assert self._link.lead is not None
        return self._link.lead.members

    @property
    def others(self) -> list[int]:
        """The members but this node."""
        return [node for node in self.members if node != self.node_rank]

    def hosts(self) -> dict[int, str]:
        """Return the names of the nodes' machines."""
        messages = {**self._link.others, self.node_rank: self._link.message}
        known = {node: message.host for node, message in messages.items()}
        return known if self._former is None else {**self._former.hosts(), **known}

    def places(self) -> dict[int, StoreAddress]:
        """Return where the nodes could meet on each of the other nodes."""
        return {
            node: StoreAddress(node=node, addr=message.addr, port=message.port)
            for node, message in self._link.others.items()
            if message.addr
        }

    def is_at(self, node: int, attempt: int) -> bool:
        """Return whether a node is in an attempt and has not ended it."""
        message = self._link.others.get(node)
        return message is not None and message.attempt == attempt and message.end is None

    def end_of(self, node: int, attempt: int) -> NodeEnd | None:
        """Return how an attempt ended on another node; None: it has not, or it never began."""
        message = self._link.others.get(node)
        return message.end if message is not None and message.attempt == attempt else None

    def lost(self) -> list[int]:
        """Return the nodes of which nothing is heard any more."""
        lead = self._link.lead
        left = {node for node, message in self._link.others.items() if message.leaves}
        silent = set(self._link.lost(time.monotonic())) - left
        if lead is None or lead.attempt < 0:
            return sorted(silent)
        # To leave before it was decided that the attempt is over is to be lost to it.
        return sorted((silent if lead.decided else silent | left).intersection(lead.members))

    def lost_sentence(self, node: int) -> str:
        """Return the sentence about a lost node."""
        return lost_text(node, self.hosts().get(node))

    def has_told_loss_of(self, node: int) -> bool:
        """Return whether a node was lost while the ranks were running here."""
        return node in self._told_lost

    def tell(self) -> int:
        """Report who was lost or dropped since the last call; return the number of lost members."""
        for node in set(self.lost()) - self._told_lost:
            self._told_lost.add(node)
            self._say(f"{self.lost_sentence(node)} Ending the ranks here.")
        for node in self._link.strange - self._told_strange:
            self._told_strange.add(node)
            self._say(strange_text((node,), str(self._place)))
        return len(self._told_lost.intersection(self.members))

    def begin(self) -> None:
        """Begin an attempt: a member that was lost before it has come back."""
        self._told_lost.difference_update(self.members)

    def missing(self, num_nodes: int, waited_s: float) -> str:
        """Return the sentence about the nodes that have not come yet."""
        here = {*self._link.others, self.node_rank}
        absent = [node for node in range(num_nodes) if node not in here]
        text = f"waiting for node {self._place.node} to begin, {waited_s:.0f} s so far."
        if absent:
            text = missing_text(absent, num_nodes, waited_s, str(self._place))
        strange = sorted(self._link.strange)
        return f"{text} But {strange_text(strange, str(self._place))}" if strange else text
