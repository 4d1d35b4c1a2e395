"""What happens when the leading node is lost: the lowest node that answers leads in its place.

For this each node that follows keeps a port free and tells the others where; they go there without
a word between them, since the store in which they spoke is gone with its node.
"""

# Note: who leads when the leader is gone
#
# The nodes talk through a store on the leader. When the leader is lost, so is the only place where
# they could agree on another one. So the agreement is made beforehand: while all is well each node
# keeps a port bound and publishes its address in the store. Every node knows the addresses of all.
#
# When a node hears nothing of the leader any more, it first ends its ranks (no collective of theirs
# can end), then knocks at the spare ports. The lowest node number that answers is the leader. No
# message is exchanged: every node that sees the same answers comes to the same result. If it is
# this node, it opens a store at its port and waits for the others; else it goes to the port of that
# node.
#
# Nodes may see different answers for a moment, since they notice a loss at different times. The
# port is bound all along, so that a connection is accepted by the kernel even before its node has
# noticed anything: a node that is alive answers. Who went to a node that turns out not to lead is
# not waited for longer than GATHER_S, and counts as lost.
#
# Two halves of a network that has broken in two would elect two leaders. So a part continues
# only if it has more than half of the others (quorum.py), and at least the MIN of --nnodes
# MIN:MAX. A run that was asked to leave elects nobody: it is on its way out (`may_succeed`).

import contextlib
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ...errors import UsageError
from ..leader_store import StoreAddress, answering, serve
from ..local import bind
from ..network import own_address

GATHER_S = 20.0
"""How long who comes to lead waits for the others: some notice the loss LOST_S later, and then
still have ranks to end."""


@dataclass(frozen=True, kw_only=True)
class SparePort:
    """A port that is kept free for the case that this node comes to lead; used once."""

    addr: str
    port: int
    listener: socket.socket

    @classmethod
    def keep(cls, local_addr: str | None, leader_addr: str) -> "SparePort | None":
        """Bind a port on the address towards the leader; None: this node can never lead.

        Args:
            local_addr: --local-addr, which names the address instead.
            leader_addr: Where the leader is.
        """
        addr = local_addr or own_address(leader_addr)
        if addr is None:
            return None
        with contextlib.suppress(UsageError):
            listener = bind(addr, 0)
            return cls(addr=addr, port=listener.getsockname()[1], listener=listener)
        return None

    def serve(self) -> TCPStore:
        """Open the store in which the nodes meet from now on."""
        return serve(self.addr, self.listener)

    def close(self) -> None:
        """Give the port back."""
        self.listener.close()


@dataclass(frozen=True, kw_only=True)
class LeaderElection:
    """Who answered when the leader was lost."""

    node_rank: int
    """This node's."""
    members: tuple[int, ...]
    """Of the attempt that is over, the former leader included."""
    there: Mapping[int, StoreAddress]
    """The others that answer at their spare ports."""

    @classmethod
    def find(
        cls,
        *,
        node_rank: int,
        leader: int,
        members: tuple[int, ...],
        places: Mapping[int, StoreAddress],
    ) -> "LeaderElection":
        """Knock at the spare ports of all members but the former leader."""
        asked = (p for node, p in places.items() if node in members and node != leader)
        return cls(node_rank=node_rank, members=members, there=answering(asked))

    def leader(self) -> StoreAddress | None:
        """Return where to meet from now on; None: this node is to lead. Pure."""
        lowest = min(self.there, default=self.node_rank)
        return self.there[lowest] if lowest < self.node_rank else None

    def lost(self, *, heard: Iterable[int], lost: Iterable[int], waited_s: float) -> list[int]:
        """Return the members that this node as leader does not wait for any more; pure.

        Args:
            heard: Those that have come here.
            lost: Those of them of which nothing is heard any more.
            waited_s: Since this node leads; those that answered are expected up to GATHER_S.
        """
        coming: Collection[int] = self.there if waited_s < GATHER_S else ()
        absent = set(self.members) - {self.node_rank, *heard, *coming}
        return sorted({*absent, *lost})


def may_succeed(*, num_members: int, num_min: int, asked_to_end: bool, ended_by_loss: bool) -> bool:
    """Return whether a run may continue without its leader; pure.

    Args:
        num_members: The nodes of the attempt that is over, the leader included.
        num_min: Of --nnodes.
        asked_to_end: A warning came, or a second Ctrl-C.
        ended_by_loss: The loss has ended the ranks here. One that came after they had ended by
            themselves says nothing of what was decided.
    """
    return num_members - 1 >= num_min and not asked_to_end and ended_by_loss
