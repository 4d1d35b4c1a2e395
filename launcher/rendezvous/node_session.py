"""How several nodes come together, agree on each attempt, and part.

One node leads: it holds the store and decides; the others follow. That is node 0, and when it is
lost the lowest of those that are left. Every wait ends when a node is lost.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ..contract.launcher_signals import SignalInbox
from ..errors import StartError
from ..plan.launch_plan import LaunchPlan
from .leader_store import STORE_S, StoreAddress, open_when_resolved, reach, serve
from .local import bind
from .meeting import POLL_S, Meeting
from .members.admission import Admission, require_led
from .members.gathering import Gathering
from .members.late_nodes import LateNodes, LateNodeWatch
from .members.leader_election import GATHER_S, LeaderElection, SparePort, may_succeed
from .members.membership import Membership
from .members.quorum import has_quorum
from .members.remote_status import RemoteStatus
from .messages import Lead, NodeEnd, bounded, seen_elsewhere
from .node_link import LOST_S, NodeLink, connect_to
from .node_texts import named
from .reminder import REMIND_S, Reminder

PART_S = LOST_S + 2.0
"""How long the leader waits for the others to have read what it decided; who is lost is not waited
for."""
ASKED_S = 1.5
"""As PART_S, where a notice ends the run before the ranks exist: the others leave at once."""
SETTLE_S = 2.0

Decide = Callable[[int, Mapping[int, NodeEnd], list[int], Collection[int]], Lead]


class NodeSession:
    """This node's part in a run of several nodes."""

    def __init__(
        self,
        plan: LaunchPlan,
        inbox: SignalInbox,
        say: Callable[[str], None],
        can_regroup: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare.

        Args:
            plan: Of this node.
            inbox: Notices, from here and from the other nodes.
            say: Told what a person should know.
            can_regroup: Returns whether the ranks could save and leave now, to resume with others.
        """
        self._plan = plan
        self._late = LateNodeWatch(
            every_s=plan.nodes.rejoin_every_s, can_regroup=can_regroup, say=say
        )
        self._nodes = plan.nodes
        self._inbox = inbox
        self._say = say
        self._server: TCPStore | None = None
        self._store: TCPStore | None = None
        self._spare: SparePort | None = None
        self._attempt = -1
        self._meeting = Meeting(plan, inbox, say)

    @property
    def place(self) -> StoreAddress:
        """Where the nodes meet."""
        return self._meeting.place

    @property
    def roster(self) -> Membership:
        """What this node sees of the others."""
        return self._meeting.roster

    @property
    def _link(self) -> NodeLink:
        return self._meeting.link

    def is_lost(self, node: int) -> bool:
        """Return whether nothing is heard of a node any more."""
        return self._meeting.is_lost(node)

    def join(self) -> None:
        """Meet the other nodes.

        Raises:
            UsageError: This node cannot take part as it was started.
            StartError: The others did not come, or node 0 cannot be reached.
            Interrupted: The run was asked to end meanwhile.
        """
        self._server = open_when_resolved(
            self._nodes, self.place, say=self._say, check=self._meeting.check_inbox
        )
        leads = self._server is not None
        if not leads:
            timeout_s = self._nodes.join_timeout_s
            reach(self.place, timeout_s=timeout_s, say=self._say, check=self._meeting.check_inbox)
            self._keep_a_spare_port()
        self._link.start(leads=leads)
        self._meeting.wait(
            lambda: self._link.numbered, lambda _: self._link.why_unnumbered(self.place)
        )
        if leads:
            self._gather()

    def _keep_a_spare_port(self) -> None:
        """Bind a port where the nodes can meet if this one comes to lead, and tell the others."""
        self._spare = spare = SparePort.keep(self._nodes.local_addr, self.place.addr)
        if spare is not None:
            self._link.publish(replace(self._link.message, addr=spare.addr, port=spare.port))

    def _gather(self) -> None:
        """Wait for the nodes on node 0, and publish who takes part."""
        gathering = Gathering(
            self._link.message,
            num_min=self._nodes.num_min,
            num_max=self._nodes.num_max,
            last_call_s=self._nodes.last_call_s,
        )

        def publish(members: tuple[int, ...]) -> None:
            refused = dict(gathering.refused)
            self._link.publish_lead(Lead(attempt=-1, members=members, port=0, refused=refused))

        def complete() -> bool:
            for sentence in gathering.look(self._link.others):
                self._say(sentence)
                publish((0,))
            return gathering.is_complete(time.monotonic())

        self._meeting.wait(complete, self._meeting.missing, self._nodes.join_timeout_s)
        publish(gathering.members)

    def open_attempt(self) -> tuple[TCPStore, int]:
        """Return the store in which the ranks of the next attempt meet, and its port.

        Raises:
            StartError: A node was lost.
            UsageError: The leader does not let this node take part.
        """
        is_first = self._attempt < 0
        self._attempt = attempt = self._admitted() if is_first else self._attempt + 1
        self._link.publish(replace(self._link.message, attempt=attempt, end=None, waits=False))
        self.roster.begin()
        self._late.begin()
        if self._meeting.leads:
            self._meeting.wait(lambda: self._all_are_at(attempt), watch_all=is_first)
            assert self._link.lead is not None
            members, refused = self._link.lead.members, self._link.lead.refused
            listener = bind(self.place.addr, 0)
            port = listener.getsockname()[1]
            self._store = serve(self.place.addr, listener)
            self._link.publish_lead(
                Lead(attempt=attempt, members=members, port=port, refused=refused)
            )
            return self._store, port
        self._meeting.wait(
            lambda: self._is_led(attempt),
            self._meeting.missing,
            self._nodes.join_timeout_s,
            watch_all=is_first and attempt == 0,
        )
        assert self._link.lead is not None
        port = self._link.lead.port
        return connect_to(self.place.addr, port, STORE_S), port

    def close_attempt(self) -> None:
        """Release the ranks' store."""
        self._store = None

    def elsewhere(self) -> RemoteStatus:
        """Return what has happened on the other nodes; called at each look.

        Warnings travel both ways: one that came to any node is one for all.
        """
        self._meeting.share_warning()
        num_lost = self.roster.tell()
        if self._meeting.leads:
            self._late.look(self._link, self.roster.hosts)
        lead = self._link.lead
        joining = () if lead is None or lead.attempt != self._attempt else lead.joining
        return seen_elsewhere(
            self._link.others,
            attempt=self._attempt,
            members=self.roster.members,
            num_lost=num_lost,
            joining=named(joining, self.roster.hosts()) if joining else "",
        )

    @property
    def is_regrouping(self) -> bool:
        """Whether the ranks of this attempt were asked to leave so that late nodes can join."""
        return self._link.lead is not None and bool(self._link.lead.joining)

    def late_nodes(self) -> LateNodes:
        """Return the nodes that wait to be taken in. Called on the leading node."""
        return self._late.find(self._link)

    def end_attempt(self, end: NodeEnd, decide: Decide) -> Lead | None:
        """Send how the attempt ended here; return what the leader decides from all ends.

        None: the leader is lost and nobody came to lead in its place, or a second Ctrl-C came;
        nothing was decided.

        Args:
            end: Of this node.
            decide: From the ends, the lost nodes and those of them that have surely ended to the
                decision; called on the leading node only.
        """
        end = bounded(end)
        self._link.publish(replace(self._link.message, end=end))
        self._link.hurry()
        if self._meeting.leads:
            return self._lead(end, decide, lambda _: self.roster.lost())
        lead = self._follow()
        return self._succeed(end, decide) if lead is None and self._may_succeed() else lead

    def _lead(
        self,
        end: NodeEnd,
        decide: Decide,
        lost: Callable[[float], list[int]],
        dead: Collection[int] = (),
    ) -> Lead:
        reminder = Reminder(self._say, REMIND_S)
        while not self._inbox.kill_now:
            gone = lost(reminder.waited_s)
            there = [node for node in self._meeting.unfinished(self._attempt) if node not in gone]
            if not there:
                break
            self._meeting.remind(reminder, there)
        attempt, others = self._attempt, self.roster.others
        ends = {node: its for node in others if (its := self.roster.end_of(node, attempt))}
        ends[self.roster.node_rank] = end
        lead = decide(attempt, ends, lost(reminder.waited_s), dead)
        self._link.publish_lead(lead)
        return lead

    def _follow(self, patience_s: float = 0.0) -> Lead | None:
        """Wait for the decision; for the first seconds also for a leader that is not there yet."""
        reminder = Reminder(self._say, REMIND_S)
        while not self._inbox.kill_now:
            lead = self._link.lead
            if lead is not None and lead.attempt == self._attempt and lead.decided:
                return lead
            if self.is_lost(self.place.node) and reminder.waited_s >= patience_s:
                return None
            self._meeting.remind(
                reminder, self._meeting.unfinished(self._attempt) or [self.place.node]
            )
        return None

    # ------------------------------------------------------------------ another leader

    def _may_succeed(self) -> bool:
        return may_succeed(
            num_members=len(self.roster.members),
            num_min=self._nodes.num_min,
            asked_to_end=self._inbox.warned_by is not None or self._inbox.kill_now,
            ended_by_loss=self.roster.has_told_loss_of(self.place.node),
        )

    def _succeed(self, end: NodeEnd, decide: Decide) -> Lead | None:
        """Meet again at the lowest node that answers, and decide there what becomes of the run."""
        me, former, members = self.roster.node_rank, self.place, self.roster.members
        heirs = LeaderElection.find(
            node_rank=me, leader=former.node, members=members, places=self.roster.places()
        )
        if (place := heirs.leader()) is not None:
            self._meeting.move_to(place, leads=False)
            return self._follow(GATHER_S)
        if self._spare is None:
            return None
        dead = {former.node} if former.is_closed() else set()
        spare, self._spare = self._spare, None
        self._server = spare.serve()
        self._meeting.move_to(StoreAddress(node=me, addr=spare.addr, port=spare.port), leads=True)
        self._link.publish_lead(Lead(attempt=self._attempt, members=members, port=0))

        def lost(waited_s: float) -> list[int]:
            gone = self.roster.lost()
            return heirs.lost(heard=self._link.others, lost=gone, waited_s=waited_s)

        return self._lead(end, decide, lost, dead)

    def part(self) -> None:
        """Leave; the leader stays a moment so that the others can read what it decided."""
        self._meeting.share_warning()
        if self._meeting.leads and (
            self._link.lead is not None or self._inbox.warned_by is not None
        ):
            undecided = self._link.lead is None or not self._link.lead.decided
            end = time.monotonic() + (ASKED_S if undecided else PART_S)
            while time.monotonic() < end and not all(
                self.is_lost(node) or self._link.others[node].leaves for node in self._link.others
            ):
                time.sleep(POLL_S)
        self._link.publish(replace(self._link.message, leaves=True))
        # Without the leader nothing can be sent, and a call to it may hang for a minute.
        self._link.stop(0.1 if self.is_lost(self.place.node) else SETTLE_S)
        self._store = self._server = None
        if self._spare is not None:
            self._spare.close()

    # ------------------------------------------------------------------ coming late

    def _admitted(self) -> int:
        """Wait until the leader counts this node in; return the attempt that it takes part in."""
        if self._meeting.leads:
            return 0
        admission = Admission(self._link, self.place.node, uses_run=self._plan.uses_run)

        def describe(waited_s: float) -> str:
            return admission.text(waited_s) or self._meeting.missing(waited_s)

        self._meeting.wait(
            admission.is_given, describe, self._nodes.join_timeout_s, watch_all=False
        )
        return admission.attempt

    def _all_are_at(self, attempt: int) -> bool:
        """Return whether all members are in the attempt; who is lost meanwhile is left out."""
        lead, gone = self._link.lead, self.roster.lost()
        assert lead is not None
        if attempt > 0 and gone:
            members = tuple(node for node in lead.members if node not in gone)
            if len(members) < self._nodes.num_min or not has_quorum(members, lead.members):
                raise StartError(self.roster.lost_sentence(gone[0]))
            self._say(f"{self.roster.lost_sentence(gone[0])} Starting without it.")
            self._link.publish_lead(replace(lead, members=members))
        return all(self.roster.is_at(node, attempt) for node in self.roster.others)

    def _is_led(self, attempt: int) -> bool:
        lead = self._link.lead
        require_led(self._link, self.place.node)
        if lead is None:
            return False
        if lead.attempt == attempt and self.roster.node_rank not in lead.members:
            raise StartError("the run continues without this node, which was considered lost.")
        return lead.attempt == attempt and not lead.decided
