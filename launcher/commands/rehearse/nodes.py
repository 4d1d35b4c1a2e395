"""A command of a rehearsal as it is given on each of several nodes, and the exit code of it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..trials.run_trial import Trial
from .network import Network

LOOPBACK = "127.0.0.1"


def on_nodes(trial: Trial, number: int, *, network: Network | None, port: int) -> tuple[Trial, ...]:
    """Return the command of each node, the leader's first. Pure.

    Args:
        trial: the command as it is given on one node.
        number: of nodes.
        network: the hosts that they are; None: all are launchers of this host.
        port: of the leader.
    """
    if number == 1:
        return (trial,)
    leader = LOOPBACK if network is None else network.addresses[0]
    where = ("--nnodes", str(number), "--master-addr", leader, "--master-port", str(port))
    return tuple(
        replace(
            trial,
            words=(*where, "--node-rank", str(node), *trial.words),
            network=None if network is None else network.file(node),
        )
        for node in range(number)
    )


def code_of(codes: Sequence[int | None]) -> int | None:
    """Return the exit code that stands for those of all nodes: 0 where all are. Pure.

    Args:
        codes: of each node; None: it did not end.
    """
    return next((code for code in codes if code != 0), 0)
