"""What a script has built, as the strategy that it is: read and written by the same code."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor

from ...collectives.process_group import Ranks
from ...errors import ConfigError
from ..strategy import Strategy
from .adoption import bare_module, torch_optimizer
from .engine import is_engine, live_zero
from .replicated import LiveDDP, LiveSingle
from .sharded import LiveFSDP


def live_strategy(model: Any, optimizer: Any, ranks: Ranks) -> Strategy:
    """Return a strategy over what the script has built. Called on every rank; no collective.

    Its `fragments`, `scalars`, `load` and `refresh` are those of the strategies that build their
    models themselves, so a checkpoint of one loads under any other. It has no steps.

    Args:
        model: plain, in DistributedDataParallel, after fully_shard, compiled, or a DeepSpeed
            engine.
        optimizer: over its parameters; None for an engine, which has its own.
        ranks: all of which hold a part.

    Raises:
        ConfigError: the optimizer holds other parameters, or the model is spread in an unknown way.
    """
    if is_engine(model):
        return live_zero(model, ranks)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model= is a {type(model).__name__}; pass the torch.nn.Module.")
    found = torch_optimizer(optimizer)
    if any(isinstance(p, DTensor) for p in bare_module(model).parameters()):
        return LiveFSDP(model, found, ranks)
    kind = "FullyShardedDataParallel"
    if any(type(module).__name__ == kind for module in model.modules()):
        raise ConfigError(
            f"the model is in torch's older {kind}, whose flat parameters are not read here. Use "
            "torch.distributed.fsdp.fully_shard."
        )
    live = LiveSingle if ranks.world_size == 1 else LiveDDP
    return live(model, found, ranks)
