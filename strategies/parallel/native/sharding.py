"""torch's fully_shard applied to a model: block by block, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Placement
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import INSTALL_TESTED, ConfigError
from ...precision import Precision
from ...torch_internals import missing_for_fsdp
from ..build_options import BuildOptions
from ..calls.given_containers import containers_as_given
from .scalar_parameters import without_dimension
from .shard_writes import within

CALL = "_call_in_forward"
"""The name of a sharded module's method that runs any function as if it were the forward."""


def shard_model(
    model: nn.Module,
    blocks: Mapping[str, nn.Module],
    *,
    mesh: DeviceMesh,
    precision: Precision,
    options: BuildOptions,
) -> None:
    """Shard the blocks each and the rest with the root. Called on every rank."""
    mixed = precision.reduce_dtype if precision.is_mixed else None
    reduce_dtype = torch.float64 if options.exact else mixed
    policy = MixedPrecisionPolicy(
        param_dtype=precision.compute_dtype if precision.is_mixed else None,
        reduce_dtype=reduce_dtype,
        output_dtype=precision.output_dtype if precision.is_mixed else None,
    )
    common: dict[str, Any] = {"mesh": mesh, "ignored_params": without_dimension(model)}
    if options.offload:
        common["offload_policy"] = CPUOffloadPolicy()
    inner = _without_output(policy)
    with containers_as_given([*blocks.values(), model], engine_comes_first=True):
        for block in blocks.values():
            if precision.is_mixed:
                _shard_batch_norms(block, reduce_dtype, common)
            # A block has its outputs cast by the root's policy only: inside, activations stay low.
            if not isinstance(block, FSDPModule):
                fully_shard(block, mp_policy=inner, **common)
        if precision.is_mixed:
            _shard_batch_norms(model, reduce_dtype, common)
        fully_shard(model, mp_policy=policy, **common)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            _take_calls(module)


def require_sharded(
    model: nn.Module, blocks: Mapping[str, nn.Module], placements: tuple[Placement, ...]
) -> None:
    """Refuse a model that torch has not cut as asked.

    Raises:
        ConfigError: naming the parameter or the block.
    """
    for name, parameter in model.named_parameters():
        is_cut = isinstance(parameter, DTensor) and parameter.placements == placements
        if parameter.ndim and not is_cut:
            raise ConfigError(
                f"strategy=fsdp: parameter {name} was not sharded by rows but is "
                f"{type(parameter).__name__}. torch {torch.__version__} is not supported."
            )
    for name, block in blocks.items():
        if not isinstance(block, FSDPModule):
            raise ConfigError(
                f"strategy=fsdp: block {name} was not sharded on its own. "
                f"torch {torch.__version__} is not supported."
            )
    sharded = (module for module in model.modules() if isinstance(module, FSDPModule))
    if (missing := missing_for_fsdp(sharded)) is not None:
        raise ConfigError(
            f"strategy=fsdp needs {missing}, which torch {torch.__version__} does not have. "
            f"{INSTALL_TESTED}, or use --strategy ddp."
        )


def _take_calls(module: nn.Module) -> None:
    """Let any function run as if it were the module's forward: gathered, and reduced after it."""

    setattr(module, CALL, partial(within, module))
    register_fsdp_forward_method(module, CALL)


def _shard_batch_norms(
    block: nn.Module, reduce_dtype: torch.dtype | None, common: dict[str, Any]
) -> None:
    """Give the block's BatchNorms, together, weights in fp32 beside their fp32 statistics.

    They take activations of the compute dtype, as under autocast.
    """
    norms = [
        module
        for module in block.modules()
        if isinstance(module, _BatchNorm)
        and not isinstance(module, FSDPModule)
        and any(True for _ in module.parameters())
    ]
    reduce_dtype = reduce_dtype if reduce_dtype == torch.float64 else None
    policy = MixedPrecisionPolicy(cast_forward_inputs=False, reduce_dtype=reduce_dtype)
    if len(norms) == 1:
        fully_shard(norms[0], mp_policy=policy, **common)
    elif norms:
        fully_shard(list[nn.Module](norms), mp_policy=policy, **common)


def _without_output(policy: MixedPrecisionPolicy) -> MixedPrecisionPolicy:
    return MixedPrecisionPolicy(param_dtype=policy.param_dtype, reduce_dtype=policy.reduce_dtype)
