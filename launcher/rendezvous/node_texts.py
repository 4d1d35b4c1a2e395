"""Messages of a node about the others: pure."""

from collections.abc import Iterable, Mapping


def waiting_text(ranks_of: Mapping[int, str], waited_s: float) -> str:
    """Return the sentence about nodes whose ranks are still running when those here have ended."""
    names = ", ".join(f"{node} ({host})" for node, host in sorted(ranks_of.items()))
    return f"the ranks here have ended; waiting for those of node {names}, {waited_s:.0f} s so far."


def lost_text(node: int, host: str | None) -> str:
    """Return the sentence about a node of which nothing is heard any more."""
    where = f" ({host})" if host else ""
    return f"node {node}{where} is lost: its launcher is gone, or the network to it is cut."


def strange_text(nodes: Iterable[int], place: str) -> str:
    """Return the sentence about messages that were dropped."""
    names = ", ".join(str(node) for node in nodes)
    return (
        f"what was written at {place} in the name of node {names} is dropped: its HMAC is not "
        "that of this run. That node has another secret, another --rdzv-id or another version of "
        "relaunch, or somebody else writes there."
    )


def missing_text(missing: Iterable[int], num_nodes: int, waited_s: float, place: str) -> str:
    """Return the sentence about nodes that have not come yet."""
    names = ", ".join(str(node) for node in missing)
    word = "nodes" if "," in names else "node"
    return (
        f"waiting for {word} {names} of {num_nodes} at {place}, {waited_s:.0f} s so far. Start the "
        "same command there, with its own --node-rank."
    )


def named(nodes: Iterable[int], hosts: Mapping[int, str]) -> str:
    """Return "node 2 (host)", or "nodes 2 (host), 3 (other)"."""
    known = {node: hosts.get(node) for node in sorted(nodes)}
    names = [str(node) if host is None else f"{node} ({host})" for node, host in known.items()]
    return f"node{'s' * (len(names) > 1)} {', '.join(names)}"


def standing_by_text(num_members: int, waited_s: float, *, uses_run: bool) -> str:
    """Return the sentence about a run that has begun without this node."""
    word = "node" if num_members == 1 else "nodes"
    when = "after one of its next steps"
    if not uses_run:
        when = "when its ranks are restarted, since its script saves nothing by itself"
    return (
        f"the run is under way on {num_members} {word}. This node will join it {when}; waiting, "
        f"{waited_s:.0f} s so far."
    )


def taken_text(node: int) -> str:
    """Return the sentence about a place in a run under way that another node has, or had."""
    return (
        f"the run is under way, and --node-rank {node} is taken there. Waiting until the "
        "loss of that node is detected."
    )


def full_text(num_nodes: int) -> str:
    """Return the sentence about a run under way that has all its nodes."""
    return (
        f"the run is under way with all {num_nodes} nodes. Waiting until the loss of one is "
        "detected."
    )


def hung_text(node: int, host: str, step: int | None) -> str:
    """Return that a node's ranks hung, without a full stop."""
    after = "" if step is None else f" after step {step}"
    return f"no rank of node {node} ({host}) made progress{after}"


def fell_text(node: int, host: str) -> str:
    """Return the sentence about a node that failed only since another one's ranks had left."""
    return (
        f"the ranks of node {node} ({host}) ended because the others had saved and exited: this is "
        "not a failure."
    )
