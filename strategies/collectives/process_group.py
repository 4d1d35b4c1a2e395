"""The process groups of a run, and small agreed messages over the host's group."""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from checkpointing import JSON

from ..errors import ConfigError
from .gpu_errors import explained, in_use_text
from .host_channel import GroupChannel, HostChannel
from .shared_memory import SharedMemory
from .socket_channel import SocketChannel
from .socket_connect import meet_neighbours

COLLECTIVE_TIMEOUT_S = 1800
_OF_DRIVER = Path("/proc/driver/nvidia/gpus")


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
    memory: SharedMemory | None = None
    """That all of these read; None: by `neighbours` or the groups alone."""

    @property
    def shares_memory(self) -> bool:
        """Whether several ranks compute on the processors of one host, and may share memory."""
        return self.memory is not None and self.world_size > 1 and self.device.type == "cpu"

    def reserved_memory(self, size_bytes: int) -> SharedMemory | None:
        """Return memory with room for so much of each rank. Called on every rank, with one size.

        None, then on every rank: they compute elsewhere, are on several hosts, are one alone, or
        the system does not let them.
        """
        memory = self.memory if self.shares_memory else None
        return memory if memory is not None and memory.reserve(size_bytes) else None

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
    *,
    rank: int,
    local_rank: int,
    world_size: int,
    node_rank: int = 0,
    cuda_backend: str | None = None,
) -> Iterator[Ranks]:
    """Initialise torch.distributed for the block: NCCL on GPUs, gloo on CPUs.

    Called on every rank. Under a launcher the address comes from its environment (env://); a single
    process needs no address and opens no port for a store. When the block ends by an exception the
    groups are left alone: a peer may be stuck in a collective that destroying would wait for.

    Args:
        rank: of all ranks.
        local_rank: of those of its node.
        world_size: number of ranks.
        node_rank: see `Ranks`.
        cuda_backend: "gloo" lets ranks share GPUs, which NCCL refuses; None: NCCL.

    Raises:
        ConfigError: this rank has no GPU of its own, and is to share none; or gloo is told to use
            an interface that this machine does not have.
        StrategyError: NCCL cannot connect the ranks.
    """
    shares = cuda_backend == "gloo"
    device = _device(local_rank, shares=shares)
    ranks = Ranks(
        rank=rank,
        world_size=world_size,
        device=device,
        host_group=_meet(rank, world_size, device, shares=shares),
        node_rank=node_rank,
    )
    neighbours = meet_neighbours(
        rank, world_size, HostCommunicator(ranks).all_gather, limit_s=COLLECTIVE_TIMEOUT_S
    )
    memory = None if neighbours is None else SharedMemory(neighbours)
    yield replace(ranks, neighbours=neighbours, memory=memory)
    if memory is not None:
        memory.close()
    if neighbours is not None:
        neighbours.close()
    dist.destroy_process_group()


def _meet(rank: int, world_size: int, device: torch.device, *, shares: bool) -> dist.ProcessGroup:
    """Initialise torch.distributed; return the host's group. Called on every rank."""
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = HashStore() if world_size == 1 else None
    with _explaining_backends():
        dist.init_process_group(
            _backend(device, shares=shares),
            store=store,
            rank=rank if store else -1,
            world_size=world_size if store else -1,
            timeout=timeout,
            # NCCL connects now, and not in the middle of the first backward.
            device_id=device if device.type == "cuda" and not shares else None,
        )
        host_group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(host_group, dist.ProcessGroup)
    return host_group


@contextmanager
def _explaining_backends() -> Iterator[None]:
    try:
        yield
    except dist.DistBackendError as error:
        known = explained(str(error))
        if known is None:
            raise
        raise known from error
    except RuntimeError as error:
        asked = os.environ.get("GLOO_SOCKET_IFNAME")
        if asked is None or "Unable to find address for" not in str(error):
            raise
        there = ", ".join(name for _, name in socket.if_nameindex())
        raise ConfigError(
            f"GLOO_SOCKET_IFNAME={asked}: gloo finds no address of such a network interface on "
            f"this machine, which has {there}. Unset the variable, or name one of these."
        ) from error


def memory_in_use(device: torch.device) -> str | None:
    """Return a warning where others hold much of this rank's GPU. Called before the training."""
    if device.type != "cuda":
        return None
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    own_bytes = torch.cuda.memory_reserved(device)
    return in_use_text(str(device), free_bytes, total_bytes, own_bytes)


def _backend(device: torch.device, *, shares: bool) -> str:
    if device.type == "cpu":
        return "gloo"
    # Not "gloo" alone: torch would then make another group for a device mesh, with NCCL.
    return f"cpu:gloo,cuda:{'gloo' if shares else 'nccl'}"


def _device(local_rank: int, *, shares: bool) -> torch.device:
    """Return this rank's device.

    Raises:
        ConfigError: there are GPUs, but none for this rank alone, or torch cannot use them.
    """
    with warnings.catch_warnings(record=True) as said:  # why it cannot, with the driver's version
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    # The driver's management library counts them without CUDA.
    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if count == 0 and visible != "" and said and (listed := _num_listed()):
        # Neither of them reaches the driver, as after an update without a restart.
        raise ConfigError(_unusable(listed, [str(warning.message) for warning in said]))
    if count == 0:
        return torch.device("cpu")
    if not is_available:
        raise ConfigError(_unusable(count, [str(warning.message) for warning in said]))
    # A list with one GPU may be this rank's own; NCCL finds out.
    if local_rank >= count and not shares and (count > 1 or visible is None):
        shown = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
        raise ConfigError(
            f"local rank {local_rank} has no GPU of its own: this process sees {count}{shown}. "
            f"Start {count} {'rank' if count == 1 else 'ranks'} on this node, hide the GPUs with "
            "CUDA_VISIBLE_DEVICES= to train on the CPU, or set RELAUNCH_CUDA_BACKEND=gloo to try a "
            "run with ranks that share a GPU."
        )
    return torch.device("cuda", local_rank % count)


def _num_listed() -> int:
    """Return how many GPUs the kernel's driver lists; in a container the machine's."""
    try:
        return sum(1 for _ in _OF_DRIVER.iterdir())
    except OSError:
        return 0


def _unusable(count: int, said: Sequence[str]) -> str:
    """Return why GPUs that are there cannot be used: trained on the CPU nobody would notice."""
    cause = said[-1].partition("\n")[0].rstrip(".") if said else "CUDA does not start"
    return (
        f"this process sees {count} GPU{'s' * (count > 1)}, and torch {torch.__version__}, built "
        f"for CUDA {torch.version.cuda}, cannot use {'them' if count > 1 else 'it'}: {cause}. "
        "Update the driver (after an update, restart the machine), or install a torch that is "
        "built for it (relaunch doctor shows both); or hide the GPUs with CUDA_VISIBLE_DEVICES= "
        "to train on the CPU."
    )


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
