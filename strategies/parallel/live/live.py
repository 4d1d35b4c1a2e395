"""What a script has built, as the state that it is: read and written by the strategies' code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from ...collectives.process_group import Ranks
from ...errors import ConfigError
from ..gradients.bucket_order import orders_of
from ..state.trained_state import TrainedState
from ..strategy import Strategy
from .adoption import bare_module, inside_fabric, live_groups, replicas_wrapper, torch_optimizer
from .engine import is_engine, live_zero
from .replicated import LiveDDP, LiveSingle
from .several import LiveSeveral, Part, SeveralOptimizers, by_name, together

_OLDER = "FullyShardedDataParallel"


def live_state(model: Any, optimizer: Any, ranks: Ranks) -> TrainedState:
    """Return the state of what the script has built. Called on every rank; no collective.

    Its `fragments`, `scalars`, `load` and `refresh` are those of the strategies that build their
    models themselves, so a checkpoint of one loads under any other.

    Args:
        model: plain, in DistributedDataParallel, after fully_shard, compiled, or a DeepSpeed
            engine, also as Lightning Fabric's setup has returned it; or several, as a mapping of
            names or a sequence.
        optimizer: over its parameters; None for an engine, which has its own; or several.
        ranks: all of which hold a part.

    Raises:
        ConfigError: the optimizer holds other parameters, or the model is spread in an unknown way.
    """
    models = by_name(model, "model")
    found: Strategy | LiveSeveral
    if models is None and not isinstance(optimizer, Mapping | list | tuple):
        found = _live_one(inside_fabric(model), optimizer, ranks)
    else:
        found = _live_several({"": model} if models is None else models, optimizer, ranks)
    wrappers = [replicas_wrapper(one) for one in (models or {"": model}).values()]
    found.bucket_orders = orders_of(wrappers, ranks.world_size)
    return found


def _live_one(model: Any, optimizer: Any, ranks: Ranks) -> Strategy:
    if is_engine(model):
        return live_zero(model, ranks)
    module = _module(model, "model=")
    found = torch_optimizer(optimizer)
    return _spread(module, found, live_groups(found, list(module.named_parameters())), ranks)


def _live_several(models: Mapping[str, Any], optimizer: Any, ranks: Ranks) -> LiveSeveral:
    models = {name: inside_fabric(one) for name, one in models.items()}
    engines = {name: live_zero(one, ranks) for name, one in models.items() if is_engine(one)}
    of_engines = {id(one) for engine in engines.values() for one in engine.optimizers}
    given = by_name(optimizer, "optimizer")
    if given is None:
        given = {} if optimizer is None else {"": optimizer}
    optimizers = {
        name: found
        for name, one in given.items()
        if id(found := torch_optimizer(one, where=_called("optimizer", name))) not in of_engines
    }
    whole: dict[str, nn.Module] = {}
    cut: dict[str, nn.Module] = {}
    for name, one in models.items():
        if name not in engines:
            module = _module(one, _called("model", name))
            (cut if _is_cut(module) else whole)[name] = module
    spread = [*([("", together(whole))] if whole else ()), *cut.items()]
    owners = SeveralOptimizers(spread, optimizers)
    parts = [
        Part(prefix, _spread(module, owners.of(module), owners.groups_of(prefix, module), ranks))
        for prefix, module in spread
    ]
    parts += [Part(name, engine) for name, engine in engines.items()]
    return LiveSeveral(parts, owners)


def _called(argument: str, name: str) -> str:
    return f"{argument}[{name!r}]" if name else f"{argument}="


def _module(model: Any, where: str) -> nn.Module:
    """Return the user's module.

    Raises:
        ConfigError: it is none, or in torch's older FullyShardedDataParallel.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{where} is a {type(model).__name__}; pass the torch.nn.Module, or several as "
            '{"generator": ..., "discriminator": ...}.'
        )
    if any(type(module).__name__ == _OLDER for module in model.modules()):
        raise ConfigError(
            f"{where} is in torch's older {_OLDER}, whose flat parameters are not read here. Use "
            "torch.distributed.fsdp.fully_shard."
        )
    return bare_module(model)


def _is_cut(module: nn.Module) -> bool:
    return any(isinstance(p, DTensor) for p in module.parameters())


def _spread(
    module: nn.Module, optimizer: torch.optim.Optimizer, groups: list[list[str]], ranks: Ranks
) -> Strategy:
    if _is_cut(module):
        from .sharded import LiveFSDP

        return LiveFSDP(module, optimizer, groups, ranks)
    live = LiveSingle if ranks.world_size == 1 else LiveDDP
    return live(module, optimizer, groups, ranks)
