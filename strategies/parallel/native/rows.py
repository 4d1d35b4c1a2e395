"""How torch's fully_shard cuts a model: over which ranks, in which blocks, into which rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from ...collectives.process_group import Ranks
from ...errors import ConfigError
from ..build_options import BuildOptions
from ..matrix.owned_steps import Ring
from ..model.blocks import find_blocks, shared_with_outside


def mesh_of(ranks: Ranks, options: BuildOptions) -> DeviceMesh:
    """Return the ranks in one row, or for hybrid sharding as nodes x ranks of a node.

    Raises:
        ConfigError: the ranks are not whole nodes of `local_world_size`.
    """
    device, size, local = ranks.device.type, ranks.world_size, options.local_world_size
    if not options.hybrid_shard or local == size:
        return init_device_mesh(device, (size,))
    if size % local:
        raise ConfigError(
            f"hybrid_shard needs the same number of ranks on each node; {size} ranks are not "
            "whole nodes of "
            f"{local}. Leave it out, or start {local} ranks on each node."
        )
    return init_device_mesh(device, (size // local, local), mesh_dim_names=("node", "shard"))


def ring_of(mesh: DeviceMesh, rank: int) -> Ring:
    """Return the ranks among which rows are cut."""
    group: Any = mesh.get_group(mesh.ndim - 1)
    members = dist.get_process_group_ranks(group)
    return Ring(group, members, members.index(rank))


def blocks_to_shard(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Return the blocks that can be sharded on their own.

    A block that shares a parameter with a module outside of it is left to the root, because
    fully_shard needs a tied parameter to have one owner.

    Raises:
        ConfigError: such a block was asked for by name.
    """
    found = {}
    for name, block in find_blocks(model, patterns).items():
        shared = shared_with_outside(model, block)
        if shared and patterns:
            raise ConfigError(
                f"block {name} shares {', '.join(shared)} with the rest of the model, so it cannot "
                "be sharded on its own. Leave it out of --shard-blocks."
            )
        if not shared:
            found[name] = block
    return found


def shard_range(parameter: torch.Tensor) -> tuple[int, int]:
    """Return the elements [start, end) of the flattened parameter in this rank's shard.

    Uneven and empty shards occur: a tensor of five rows on four ranks has one. What has no
    dimension is whole on every rank.
    """
    assert isinstance(parameter, DTensor)
    if parameter.ndim == 0:
        return 0, 1
    shape, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    row = parameter.numel() // max(1, parameter.shape[0])
    start = min(offset[0] * row, parameter.numel())
    return start, start + shape[0] * row
