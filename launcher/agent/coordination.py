"""Who decides after an attempt, and where its ranks meet: one node alone, or several together."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous.api import RendezvousInfo, RendezvousStoreInfo
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from ..contract.exit_codes import CONTINUE
from ..contract.launcher_signals import SignalInbox
from ..plan.launch_plan import LaunchPlan
from ..rendezvous.local import STORE_TIMEOUT_S, LocalRendezvous
from ..rendezvous.members.quorum import has_quorum
from ..rendezvous.members.remote_status import RemoteStatus
from ..rendezvous.messages import (
    Lead,
    NodeEnd,
    bounded_text,
    code_of_nodes,
    whole_report,
)
from ..rendezvous.node_session import NodeSession
from ..rendezvous.node_texts import named
from .attempts.history import AttemptHistory
from .attempts.node_loss import (
    after_loss_text,
    code_after_loss,
    has_checkpoint,
    without_leader_text,
)
from .attempts.restart_policy import RestartDecision


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What comes after an attempt."""

    code: int
    restart: bool
    wait_s: float = 0.0


class Coordination(Protocol):
    """Decides after each attempt."""

    rendezvous: StaticTCPRendezvous

    def open(self) -> None:
        """Meet the other nodes, if there are any."""

    def elsewhere(self) -> RemoteStatus:
        """Return what has happened on the other nodes."""

    def conclude(self, end: NodeEnd) -> Decided:
        """Report the end of an attempt and decide what comes next."""

    def close(self) -> None:
        """Part from the other nodes."""


class SingleNode:
    """The coordination of one node."""

    def __init__(self, plan: LaunchPlan, history: AttemptHistory, run_id: str) -> None:
        self.rendezvous: StaticTCPRendezvous = LocalRendezvous(
            run_id=run_id, addr=plan.master_addr, port=plan.master_port
        )
        self._history = history

    def open(self) -> None:
        """See Coordination."""

    def elsewhere(self) -> RemoteStatus:
        """See Coordination."""
        return RemoteStatus()

    def conclude(self, end: NodeEnd) -> Decided:
        """See Coordination."""
        if end.report:
            self._history.say(end.report)
        decision = self._history.decide({0: end}, end.code)
        if decision.reason:
            self._history.say(decision.reason)
        return Decided(code=end.code, restart=decision.restart, wait_s=decision.wait_s)

    def close(self) -> None:
        """See Coordination."""


class MultiNode:
    """The coordination of several nodes; the leading one decides."""

    def __init__(
        self,
        plan: LaunchPlan,
        history: AttemptHistory,
        inbox: SignalInbox,
        can_regroup: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._history = history
        self._inbox = inbox
        self._meeting = NodeSession(plan, inbox, history.say, can_regroup)
        self._wait_s = 0.0
        self.rendezvous: StaticTCPRendezvous = NodesRendezvous(self._meeting, plan.master_addr)

    def open(self) -> None:
        """See Coordination."""
        self._meeting.join()

    def elsewhere(self) -> RemoteStatus:
        """See Coordination."""
        return self._meeting.elsewhere()

    def conclude(self, end: NodeEnd) -> Decided:
        """See Coordination."""
        self._wait_s = 0.0
        lead = self._meeting.end_attempt(end, self._decide)
        if lead is None:
            return self._undecided(end)
        if lead.said:
            self._history.say(lead.said)
        return Decided(code=lead.code, restart=lead.restart, wait_s=self._wait_s)

    def close(self) -> None:
        """See Coordination."""
        self._meeting.part()

    def _undecided(self, end: NodeEnd) -> Decided:
        leader, roster = self._meeting.place.node, self._meeting.roster
        if not self._meeting.is_lost(leader):
            return Decided(code=end.code, restart=False)
        ends = {roster.node_rank: end}
        continues = has_checkpoint(self._history.folder(ends), self._plan.run.checkpoints)
        code = code_after_loss(end.code, continues=continues)
        text = without_leader_text(leader, roster.hosts().get(leader), continues=continues)
        self._history.say(text)
        if roster.node_rank == min(node for node in roster.members if node != leader):
            self._history.record(ends, code, RestartDecision(restart=False), text)
        return Decided(code=code, restart=False)

    def _decide(
        self, attempt: int, ends: Mapping[int, NodeEnd], lost: list[int], dead: Collection[int]
    ) -> Lead:
        """Decide for all nodes. Called on the leading node only."""
        members, hosts = self._meeting.roster.members, self._meeting.roster.hosts()
        late = self._meeting.late_nodes()
        if lost:
            before, members = members, tuple(node for node in members if node not in lost)
            continues = has_checkpoint(self._history.folder(ends), self._plan.run.checkpoints)
            code = code_after_loss(code_of_nodes(ends), continues=continues)
            decision = self._without(lost, before, dead, continues=continues)
            said = [self._meeting.roster.lost_sentence(node) for node in lost]
            self._history.record(ends, code, decision, " ".join((*said, decision.reason)))
        elif self._is_regrouped(code := code_of_nodes(ends)):
            joined = f": {named(late.joining, hosts)} joins" if late.joining else ""
            number = len(members) + len(late.joining)
            decision = RestartDecision(
                restart=True, reason=f"continuing with {number} nodes{joined}."
            )
            said = []
            self._history.record(ends, code, decision, decision.reason)
        else:
            decision, said = self._history.decide(ends, code), [whole_report(ends, hosts)]
        self._wait_s = decision.wait_s
        return Lead(
            attempt=attempt,
            members=tuple(sorted({*members, *(late.joining if decision.restart else ())})),
            port=0,
            refused=late.refused,
            decided=True,
            restart=decision.restart,
            code=code,
            said=bounded_text("\n".join(text for text in (*said, decision.reason) if text)),
        )

    def _is_regrouped(self, code: int) -> bool:
        """Return whether the ranks have saved and left for late nodes, and for nothing else."""
        asked = self._inbox.warned_by is not None
        return self._meeting.is_regrouping and code == CONTINUE and not asked

    def _without(
        self,
        lost: list[int],
        members: tuple[int, ...],
        dead: Collection[int],
        *,
        continues: bool,
    ) -> RestartDecision:
        nodes, staying = self._plan.nodes, set(members) - set(lost)
        if self._inbox.warned_by is not None:
            return RestartDecision(restart=False)
        if len(staying) < nodes.num_min:
            why = f"{len(staying)} of at least {nodes.num_min} nodes are left."
        elif has_quorum(staying, members, dead):
            leader = self._meeting.place.node
            led = f", led by node {leader}" if leader else ""
            return RestartDecision(
                restart=True, reason=f"continuing with {len(staying)} nodes{led}."
            )
        else:
            why = (
                f"{len(staying)} of {len(members)} nodes are left here, and it cannot be told from "
                "here whether the others continue without them."
            )
        return RestartDecision(restart=False, reason=after_loss_text(why, continues=continues))


class NodesRendezvous(StaticTCPRendezvous):
    """The ranks of several nodes meet in a store on the leader, a new one for each attempt."""

    def __init__(self, meeting: NodeSession, addr: str) -> None:
        super().__init__(
            master_addr=addr,
            master_port=0,
            rank=0,
            world_size=1,
            run_id="agents",
            timeout=STORE_TIMEOUT_S,
        )
        self._meeting = meeting

    def next_rendezvous(self) -> RendezvousInfo:
        """Open the store with the other nodes; see Meeting.open_attempt for what it raises."""
        self._store, port = self._meeting.open_attempt()
        self.master_addr = self._meeting.place.addr
        members = self._meeting.roster.members
        return RendezvousInfo(
            PrefixStore(self.run_id, self._store),
            members.index(self._meeting.roster.node_rank),
            len(members),
            RendezvousStoreInfo(self.master_addr, port),
        )

    def shutdown(self) -> bool:
        """Close the store's port."""
        self._store = None
        self._meeting.close_attempt()
        return True
