"""The process groups of a run, and small agreed messages over the host's group."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from checkpointing import JSON

from .host_channel import GroupChannel, HostChannel
from .socket_channel import SocketChannel
from .socket_connect import meet_neighbours

COLLECTIVE_TIMEOUT_S = 1800


@dataclass(frozen=True, kw_only=True)
class NodeGroup:
    """The ranks of one node."""

    members: tuple[int, ...]
    """Their numbers among all ranks, ascending."""
    own: int
    """This rank's place among them."""
    group: dist.ProcessGroup | None
    """A gloo group of the members; None: this rank is alone."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place among the ranks, its device and the group for host-side messages."""

    rank: int
    world_size: int
    device: torch.device
    host_group: dist.ProcessGroup
    """A gloo group: CPU tensors, no synchronisation with a GPU, usable when NCCL is stuck."""
    node_rank: int = 0
    """The number of this process's node; ranks with the same one read a checkpoint together."""
    neighbours: SocketChannel | None = None
    """All other ranks, where they are on this host."""

    @property
    def channel(self) -> HostChannel:
        """The shortest way to all ranks for what is on the host."""
        return GroupChannel(self.host_group) if self.neighbours is None else self.neighbours

    @property
    def is_coordinator(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0


@contextmanager
def process_groups(
    *, rank: int, local_rank: int, world_size: int, node_rank: int = 0
) -> Iterator[Ranks]:
    """Initialise torch.distributed for the block: NCCL on GPUs, gloo on CPUs.

    Called on every rank. Under a launcher the address comes from its environment (env://); a single
    process needs no address and opens no port for a store. When the block ends by an exception the
    groups are left alone: a peer may be stuck in a collective that destroying would wait for.
    """
    device = _device(local_rank)
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = HashStore() if world_size == 1 else None
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank if store else -1,
        world_size=world_size if store else -1,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    host_group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(host_group, dist.ProcessGroup)
    ranks = Ranks(
        rank=rank,
        world_size=world_size,
        device=device,
        host_group=host_group,
        node_rank=node_rank,
    )
    neighbours = meet_neighbours(
        rank, world_size, HostCommunicator(ranks).all_gather, limit_s=COLLECTIVE_TIMEOUT_S
    )
    yield replace(ranks, neighbours=neighbours)
    if neighbours is not None:
        neighbours.close()
    dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if torch.cuda.is_available() and torch.cuda.device_count() > 0:
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    return torch.device("cpu")


class HostCommunicator:
    """`checkpointing.Communicator` over the ranks' channel: JSON, no pickle."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._node: NodeGroup | None = None

    @property
    def rank(self) -> int:
        """This process's rank; 0 is the coordinator."""
        return self._ranks.rank

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self._ranks.world_size

    def gather(self, value: JSON) -> list[JSON] | None:
        """Return every rank's value, in rank order, on the coordinator. Called on every rank."""
        messages = self._ranks.channel.gather(_encode(value))
        return None if messages is None else [_decode(message) for message in messages]

    def broadcast(self, value: JSON) -> JSON:
        """Return the coordinator's value on every rank. Called on every rank."""
        return _decode(self._ranks.channel.broadcast(_encode(value)))

    def node(self) -> NodeGroup:
        """Return the ranks of this rank's node; the group is made once. Called on every rank."""
        if self._node is None:
            self._node = _node_group(self._ranks, self.all_gather(self._ranks.node_rank))
        return self._node

    def all_gather(self, value: JSON) -> list[JSON]:
        """Return every rank's value, in rank order, on every rank. Called on every rank."""
        gathered = self.broadcast(self.gather(value))
        assert isinstance(gathered, list)
        return gathered


def _node_group(ranks: Ranks, node_ranks: list[JSON]) -> NodeGroup:
    """Make a group of each node's ranks where there are several nodes. Called on every rank."""
    members_of: dict[JSON, list[int]] = {}
    for rank, node_rank in enumerate(node_ranks):
        members_of.setdefault(node_rank, []).append(rank)
    groups: dict[JSON, Any] = {ranks.node_rank: ranks.host_group}
    if len(members_of) > 1:
        timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
        groups = {
            node_rank: dist.new_group(members, backend="gloo", timeout=timeout)
            for node_rank, members in members_of.items()
            if len(members) > 1
        }
    members = members_of[ranks.node_rank]
    return NodeGroup(
        members=tuple(members),
        own=members.index(ranks.rank),
        group=groups[ranks.node_rank] if len(members) > 1 else None,
    )


def _encode(value: JSON) -> bytes:
    return json.dumps(value).encode()


def _decode(message: bytes) -> JSON:
    decoded: JSON = json.loads(message)
    return decoded
