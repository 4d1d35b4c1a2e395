"""How a node that follows comes into the run: at its start, or late."""

from dataclasses import replace

from ...errors import RunOver, StartError, UsageError
from ..node_link import NodeLink
from ..node_texts import standing_by_text


class Admission:
    """Waits for the leader to count this node in."""

    def __init__(self, link: NodeLink, leader: int, *, uses_run: bool) -> None:
        """Prepare.

        Args:
            link: To the place where the nodes meet.
            leader: The node that has the store.
            uses_run: The script saves and leaves when it is asked to.
        """
        self._link, self._leader, self._uses_run = link, leader, uses_run

    def is_given(self) -> bool:
        """Return whether this node is a member; called until it is.

        Raises:
            UsageError: The leader does not let this node take part.
            RunOver: The run has ended before.
            StartError: The leader has left.
        """
        lead, link = self._link.lead, self._link
        if lead is not None:
            if (why := lead.refused.get(str(link.message.node_rank))) is not None:
                raise UsageError(f"node {self._leader} refuses this node: {why}")
            if lead.decided and not lead.restart:
                raise RunOver("the run ended before this node could join it.", lead.code)
            if link.message.node_rank in lead.members:
                return True
            if lead.attempt >= 0 and not link.message.waits:
                link.publish(replace(link.message, waits=True))
        require_led(link, self._leader)
        return False

    @property
    def attempt(self) -> int:
        """The attempt that this node takes part in first, once it is a member."""
        lead = self._link.lead
        return 0 if lead is None else max(0, lead.attempt + lead.decided)

    def text(self, waited_s: float) -> str | None:
        """Return why it takes so long; None: the run has not begun."""
        lead = self._link.lead
        if lead is None or lead.attempt < 0:
            return None
        return standing_by_text(len(lead.members), waited_s, uses_run=self._uses_run)


def require_led(link: NodeLink, leader: int) -> None:
    """Raise StartError where the leader has left."""
    message = link.others.get(leader)
    if message is not None and message.leaves:
        raise StartError(f"node {leader} has left the run.")
