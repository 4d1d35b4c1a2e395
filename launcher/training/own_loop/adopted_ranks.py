"""The ranks of a process group that the script has opened itself, or one process without any."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

from strategies import ConfigError, HostCommunicator, Ranks
from strategies.collectives.process_group import COLLECTIVE_TIMEOUT_S
from strategies.collectives.socket_channel import SocketChannel
from strategies.collectives.socket_connect import meet_neighbours

from ...contract.environment import RankEnvironment


def adopted_ranks(environment: RankEnvironment, device: torch.device) -> Ranks:
    """Return the ranks of the script's process group. Called on every rank.

    No group is opened where there is none and one process is all: the script may ask torch whether
    it is distributed, and is to get the same answer as without us.

    Args:
        environment: of this process.
        device: where the script has its model.

    Raises:
        ConfigError: there are several ranks and no process group, or one of fewer ranks.
    """
    if not (dist.is_available() and dist.is_initialized()):
        if environment.world_size > 1:
            raise ConfigError(
                f"this process is rank {environment.rank} of {environment.world_size}, and "
                "torch.distributed is not initialised, so the ranks could not agree on anything. "
                "Call torch.distributed.init_process_group() before."
            )
        alone = SocketChannel(0, {}, limit_s=COLLECTIVE_TIMEOUT_S)
        none = cast(Any, None)  # nobody to talk to: `channel` is `alone`
        return Ranks(rank=0, world_size=1, device=device, host_group=none, neighbours=alone)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    if environment.launched and world_size != environment.world_size:
        raise ConfigError(
            f"the process group has {world_size} ranks, and {environment.world_size} were started: "
            "the rest would take no part in a save. Initialise it without world_size=."
        )
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    host_group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))
    ranks = Ranks(
        rank=rank,
        world_size=world_size,
        device=device,
        host_group=host_group,
        node_rank=environment.node_rank,
    )
    gather = HostCommunicator(ranks).all_gather
    neighbours = meet_neighbours(rank, world_size, gather, limit_s=COLLECTIVE_TIMEOUT_S)
    return replace(ranks, neighbours=neighbours)
