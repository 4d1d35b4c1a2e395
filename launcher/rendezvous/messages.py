"""The messages between the nodes of a run, and what follows from them: pure.

Each node keeps one message in the store and replaces it as things change; node 0 keeps a second
one, in which it leads. So nothing can be lost or come in the wrong order.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..contract.exit_codes import CONTINUE, DO_NOT_RETRY, DONE
from ..contract.failure_order import Failure, first_of, follows
from .members.remote_status import RemoteStatus
from .node_texts import fell_text, hung_text

MAX_REPORT_CHARS = 40_000
MAX_ERROR_CHARS = 2_000
START_TOGETHER_S = 0.1
"""Within this time of each other the nodes begin an attempt."""


@dataclass(frozen=True, kw_only=True)
class NodeEnd:
    """How an attempt ended on one node."""

    code: int
    num_ranks: int
    failure: Failure | None
    """The node's first one, counted from the start of the attempt, which the nodes begin together;
    None: no rank failed by itself."""
    lived_s: float
    joined: bool
    gives_signs: bool
    step: int | None
    error: str | None
    report: str
    """The node's report on its first failure, for everybody; may be empty."""
    hung: bool = False
    """Its ranks were ended because none of them made progress."""
    run_dir: str | None = None
    """Where the run is kept, if a rank has said so."""
    number: int | None = None
    """The attempt's in --run-dir; None without."""
    left_s: float | None = None
    """When the first of its ranks left to be continued, counted as `failure` is; None: none did."""
    early: bool = False
    """A notice ended it before any of its ranks had finished a step."""
    failed_before_notice: bool = False
    """One of its ranks had failed before any notice."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "NodeEnd":
        """Read what `asdict` gave; raises ValueError, TypeError or KeyError where it is none."""
        failure = content.pop("failure")
        return cls(failure=None if failure is None else Failure.from_json(failure), **content)


@dataclass(frozen=True, kw_only=True)
class NodeMessage:
    """A node's message."""

    node_rank: int
    host: str
    nnodes: str
    local_world_size: int
    nonce: str = ""
    """Drawn by this node at its start; a lead that repeats it is of this start."""
    beat: int = 0
    """Counts up as long as the node lives."""
    attempt: int = 0
    end: NodeEnd | None = None
    """Of the attempt `attempt`; None while it runs."""
    warned_by: int | None = None
    leaves: bool = False
    addr: str = ""
    """Where this node would have the nodes meet if it came to lead; empty: nowhere."""
    port: int = 0
    waits: bool = False
    """It came when the run had begun, and waits to be admitted."""
    program: str = ""
    """A digest of what its ranks would run; empty: not known."""
    versions: str = ""
    """Of what the ranks must have alike; empty: it does not matter."""

    def to_json(self) -> str:
        """Return the message as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "NodeMessage":
        """Read a message; raises ValueError, TypeError or KeyError where it is none."""
        content: dict[str, Any] = json.loads(text)
        end = content.pop("end")
        return cls(end=None if end is None else NodeEnd.from_json(end), **content)

    def without_texts(self) -> "NodeMessage":
        """Return what other nodes than the leading one need of it."""
        end = None if self.end is None else replace(self.end, report="", error=None)
        return replace(self, end=end)


def bundled(messages: Iterable[NodeMessage]) -> str:
    """Return several messages as text."""
    return json.dumps([message.without_texts().to_json() for message in messages])


def unbundled(text: str) -> dict[int, NodeMessage]:
    """Return the messages of a bundle by their nodes; raises as NodeMessage.from_json does."""
    messages = [NodeMessage.from_json(one) for one in json.loads(text)]
    return {message.node_rank: message for message in messages}


@dataclass(frozen=True, kw_only=True)
class Lead:
    """Node 0's second message: who takes part, where the ranks meet, what comes next."""

    attempt: int
    members: tuple[int, ...]
    port: int
    decided: bool = False
    """The attempt is over, and the fields below hold."""
    restart: bool = False
    code: int = 0
    said: str = ""
    """The report for everybody."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Node rank to the reason why that node may not take part."""
    joining: tuple[int, ...] = ()
    """Nodes that came late: for these the ranks are to save and to leave."""
    heard: Mapping[str, str] = field(default_factory=dict)
    """Node rank to the nonce of the message that node 0 has read from it."""

    def to_json(self) -> str:
        """Return the message as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Lead":
        """Read a message; raises ValueError or TypeError where it is none."""
        content: dict[str, Any] = json.loads(text)
        members, joining = tuple(content.pop("members")), tuple(content.pop("joining"))
        return cls(members=members, joining=joining, **content)


def refusal(mine: NodeMessage, other: NodeMessage) -> str | None:
    """Return why node 0 does not let another node take part, None if it does."""
    if other.nnodes != mine.nnodes:
        return (
            f"it was started with --nnodes {other.nnodes}, node 0 with --nnodes {mine.nnodes}. "
            "Pass the same on each node."
        )
    if mine.versions and other.versions and mine.versions != other.versions:
        return (
            f"it has {other.versions}, and node {mine.node_rank} has {mine.versions}. Install the "
            "same on each node."
        )
    if other.waits and other.program != mine.program:
        return (
            "its script, the modules beside it, its arguments or its options are not those of the "
            "run that it would join. Start the same command there."
        )
    return None


def bounded(end: NodeEnd) -> NodeEnd:
    """Return the end with texts that fit into a message."""
    error = None if end.error is None else end.error[:MAX_ERROR_CHARS]
    return replace(end, report=bounded_text(end.report), error=error)


def bounded_text(text: str) -> str:
    """Return the end of a report that is too long: the cause comes last."""
    return text if len(text) <= MAX_REPORT_CHARS else f"...{text[-MAX_REPORT_CHARS:]}"


def seen_elsewhere(
    others: Mapping[int, NodeMessage],
    *,
    attempt: int,
    members: Iterable[int],
    num_lost: int,
    joining: str = "",
) -> RemoteStatus:
    """Return what the other members' messages say about an attempt."""
    ends = {
        node: message.end
        for node in members
        if (message := others.get(node)) is not None
        and message.attempt == attempt
        and message.end is not None
    }
    hung = next((node for node, end in ends.items() if end.hung), None)
    return RemoteStatus(
        failed=any(end.code not in (DONE, CONTINUE) for end in ends.values()),
        left=any(end.code == CONTINUE for end in ends.values()),
        early=any(end.early for end in ends.values()),
        hung="" if hung is None else hung_text(hung, others[hung].host, ends[hung].step),
        lost=num_lost > 0,
        joining=joining,
    )


def excused(ends: Mapping[int, NodeEnd]) -> list[int]:
    """Return the nodes that failed only since the ranks of another had saved and left."""
    left_s = min((end.left_s for end in ends.values() if end.left_s is not None), default=None)
    return [
        node
        for node, end in sorted(ends.items())
        if end.failure is not None and follows(end.failure, left_s, tolerance_s=START_TOGETHER_S)
    ]


def first_to_fail(ends: Mapping[int, NodeEnd]) -> int | None:
    """Return the node whose failure came first, None if none failed by itself."""
    spared = excused(ends)
    failures = {
        node: end.failure
        for node, end in sorted(ends.items())
        if end.failure is not None and node not in spared
    }
    return first_of(failures, tolerance_s=START_TOGETHER_S)


def code_of_nodes(ends: Mapping[int, NodeEnd]) -> int:
    """Return the run's exit code: that of the node which failed first, else the worst of all.

    As on one node ranks that had to be ended do not hide that the others have saved and left.
    """
    codes = {end.code for end in ends.values()}
    first = first_to_fail(ends)
    if DO_NOT_RETRY in codes:
        return DO_NOT_RETRY
    if first is not None:
        return ends[first].code
    return CONTINUE if CONTINUE in codes else max(codes)


def whole_report(ends: Mapping[int, NodeEnd], hosts: Mapping[int, str]) -> str:
    """Return what all nodes learn about the end of an attempt."""
    lines = []
    first = first_to_fail(ends)
    if first is not None and ends[first].report:
        lines.append(f"on node {first} ({hosts[first]}):")
        lines.append(ends[first].report)
    elif first is None:
        fell, codes = excused(ends), {end.code for end in ends.values()}
        # Where the run is saved, ranks that had to be ended on another node have cost nothing.
        worth = {DONE, CONTINUE} if CONTINUE in codes else codes
        reports = {node: end.report for node, end in ends.items() if end.code in worth}
        lines.extend(text for node, text in reports.items() if text and node not in fell)
        lines.extend(fell_text(node, hosts[node]) for node in fell)
    return "\n".join(lines)
