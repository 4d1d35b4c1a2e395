"""What a node knows of the other nodes of an attempt."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RemoteStatus:
    """What has happened to this attempt on the other nodes."""

    failed: bool = False
    left: bool = False
    """A node's ranks have all left with 75."""
    early: bool = False
    """A notice ended a node's ranks before any of them had finished a step."""
    hung: str = ""
    """Which node ended its ranks because none of them made progress, in a sentence without its full
    stop; empty: none did."""
    lost: bool = False
    """A node is gone."""
    joining: str = ""
    """Which nodes came late and are to take part, as "node 2 (host)"; empty: none."""
