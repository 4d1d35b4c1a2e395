"""Nodes that come when the run is under way: who of them may take part, and when that is asked.

The leading node looks for them now and then. Its lead then names them (`Lead.joining`), and every
node asks its ranks to save and to leave at the same step; the next attempt has all of them.
"""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace

import torch

from ...contract.own_command import own_version
from ...plan.launch_plan import LaunchPlan
from ..messages import NodeMessage, refusal
from ..node_link import NodeLink
from ..node_texts import named


@dataclass(frozen=True, kw_only=True)
class LateNodes:
    """What the leading node finds at one look."""

    joining: tuple[int, ...] = ()
    """Those that may take part, in the order of their ranks."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Node rank to the reason why that node may not."""


def late_nodes(
    mine: NodeMessage,
    others: Mapping[int, NodeMessage],
    *,
    members: Collection[int],
    silent: Collection[int],
) -> LateNodes:
    """Return the nodes that wait to be taken in; pure.

    Args:
        mine: The message of the leading node.
        others: Node rank to the newest message of each other node.
        members: The nodes of the attempt.
        silent: Nodes of which nothing is heard any more.
    """
    waiting = {
        node: message
        for node, message in sorted(others.items())
        if message.waits and not message.leaves and node not in members and node not in silent
    }
    refused = {str(n): why for n, m in waiting.items() if (why := refusal(mine, m)) is not None}
    return LateNodes(
        joining=tuple(node for node in waiting if str(node) not in refused), refused=refused
    )


class LateNodeWatch:
    """The leading node's look for them."""

    def __init__(
        self, *, every_s: float, can_regroup: Callable[[], bool], say: Callable[[str], None]
    ) -> None:
        """Prepare.

        Args:
            every_s: How often to look; 0: never.
            can_regroup: Returns whether the ranks could save and leave now, to resume with others.
            say: Told which node may not join.
        """
        self._every_s, self._can_regroup, self._say = every_s, can_regroup, say
        self._looked_s = 0.0

    def begin(self) -> None:
        """Begin an attempt."""
        self._looked_s = time.monotonic()

    def find(self, link: NodeLink) -> LateNodes:
        """Return the nodes that wait now; the places of those that are lost are freed."""
        lead, others = link.lead, link.others
        members = (link.message.node_rank,) if lead is None else lead.members
        silent = [node for node in link.lost(time.monotonic()) if node in others]
        link.free(node for node in silent if node not in members)
        return late_nodes(link.message, others, members=members, silent=silent)

    def look(self, link: NodeLink, hosts: Callable[[], Mapping[int, str]]) -> None:
        """Name those that have come; the ranks of all nodes then save, leave, and resume.

        Args:
            link: To the place where the nodes meet.
            hosts: Returns the names of the nodes' machines; this is called twenty times a second.
        """
        now, lead = time.monotonic(), link.lead
        if lead is None or lead.decided or lead.joining:
            return
        if not self._every_s or now - self._looked_s < self._every_s:
            return
        self._looked_s, found = now, self.find(link)
        joining = found.joining if self._can_regroup() else ()
        if joining or found.refused != lead.refused:
            link.publish_lead(replace(lead, joining=joining, refused=found.refused))
        for node in found.refused.keys() - lead.refused.keys():
            self._say(f"{named([int(node)], hosts())} may not join: {found.refused[node]}")


def versions() -> str:
    """Return what all ranks of a run need alike, for a person; how torch was built may differ."""
    own = own_version("of a source tree")
    return f"relaunch {own} and torch {torch.__version__.partition('+')[0]}"


def digest_of_program(plan: LaunchPlan) -> str:
    """Return a digest of what the ranks run, the same on each node that was started alike.

    Folders may be elsewhere on another machine and are left out.
    """
    run = asdict(replace(plan.run, run_dir=None, checkpoints=None))
    texts = [hashlib.sha256(file.text.encode()).hexdigest() for file in plan.source.files]
    program = [plan.program.kind.value, plan.program.args, texts, run]
    return hashlib.sha256(json.dumps(program, default=str).encode()).hexdigest()
