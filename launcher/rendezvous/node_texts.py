"""What a node says about the others: pure."""

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
        f"what was written at {place} in the name of node {names} is dropped: it does not carry "
        "this run's seal. That node has another secret, another --rdzv-id or another version of "
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


def hung_text(node: int, host: str, step: int | None) -> str:
    """Return that a node's ranks hung, without a full stop."""
    after = "" if step is None else f" after step {step}"
    return f"no rank of node {node} ({host}) made progress{after}"


def fell_text(node: int, host: str) -> str:
    """Return the sentence about a node that failed only since another one's ranks had left."""
    return (
        f"the ranks of node {node} ({host}) ended because the others had saved and left: this is "
        "not a failure."
    )
