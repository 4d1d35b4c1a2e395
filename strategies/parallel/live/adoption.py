"""What is common to all that a script has built itself: its names, its groups, its optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...collectives.process_group import Ranks
from ...errors import ConfigError
from ...precision import precision_for
from ..build_options import BuildOptions
from ..catalogue import FROZEN, MASTER, Catalogue, buffer_specs, spec_of
from ..state.optimizer_extras import plain_attributes
from ..strategy import Strategy

_HOLDS = "optimizer"
"""Where accelerate and DeepSpeed keep the torch optimizer that they have wrapped."""


_FABRICS = "_FabricModule"


def adopt(
    strategy: Strategy, optimizer: torch.optim.Optimizer, groups: list[list[str]], ranks: Ranks
) -> None:
    """Give a strategy that nothing was built by what reading and writing its state needs.

    Nothing of the steps: those are the script's, so precision, clipping, penalty and average are
    unknown here, and what `Strategy.step` would do is never asked for.
    """
    strategy.ranks = ranks
    strategy.precision = precision_for("fp32", ranks.device.type)
    strategy.max_grad_norm = None
    strategy.penalty = None
    strategy.ema = None
    strategy.held_back = frozenset()
    strategy.options = BuildOptions()
    strategy._optimizer = optimizer
    strategy._group_names = groups
    strategy._as_built = plain_attributes(optimizer)


def torch_optimizer(optimizer: Any, *, where: str = "optimizer=") -> torch.optim.Optimizer:
    """Return the optimizer that steps, out of what other libraries have put around it.

    Args:
        optimizer: the script's.
        where: it was passed, for the sentence.

    Raises:
        ConfigError: there is none.
    """
    found, depth = optimizer, 0
    while depth < 5 and getattr(found, _HOLDS, None) is not None:
        found, depth = getattr(found, _HOLDS), depth + 1
    if not isinstance(found, torch.optim.Optimizer):
        raise ConfigError(
            f"{where} is a {type(optimizer).__name__}, and what is saved and restored here is a "
            "torch.optim.Optimizer. Pass the one that steps the model's parameters."
        )
    return found


def inside_fabric(model: Any) -> Any:
    """Return what Lightning Fabric's setup has wrapped: a module in DDP, an engine, or plain."""
    is_fabrics = type(model).__name__ == _FABRICS
    return model._forward_module if is_fabrics else model


def bare_module(model: nn.Module) -> nn.Module:
    """Return the user's module out of what DDP, DataParallel, Fabric and torch.compile wrap."""
    return list(_unwrapped(model))[-1]


def replicas_wrapper(model: object) -> nn.parallel.DistributedDataParallel | None:
    """Return the DistributedDataParallel around the user's module; None: there is none."""
    layers = _unwrapped(model) if isinstance(model, nn.Module) else iter(())
    return next((x for x in layers if isinstance(x, nn.parallel.DistributedDataParallel)), None)


def _unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a module and what it wraps, to the user's own at the end."""
    found: Any = inside_fabric(model)
    while found is not None:
        yield found
        if isinstance(found, nn.parallel.DistributedDataParallel | nn.DataParallel):
            found = inside_fabric(found.module)
        else:
            inner = vars(found).get("_modules", {}).get("_orig_mod")
            found = inside_fabric(inner) if isinstance(inner, nn.Module) else None


def live_groups(
    optimizer: torch.optim.Optimizer,
    named: Sequence[tuple[str, torch.Tensor]],
    *,
    called: str = "the optimizer",
    owner: str = "the model",
) -> list[list[str]]:
    """Return the names of the parameters of each group.

    Args:
        optimizer: the script's.
        named: every parameter of the model.
        called: what it is in a sentence.
        owner: whose parameters these are, in a sentence.

    Raises:
        ConfigError: it holds others, or none of them, or one twice.
    """
    name_of = {id(parameter): name for name, parameter in named}
    for number, group in enumerate(optimizer.param_groups):
        strangers = sum(id(p) not in name_of for p in group["params"])
        if strangers:
            raise ConfigError(
                f"group {number} of {called} holds {strangers} of {len(group['params'])} "
                f"parameters that are not {owner}'s: it was made for another model, or before "
                "the model was wrapped or sharded. Make it from model.parameters() after that, and "
                "pass the same model here."
            )
    groups = [[name_of[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    counts = Counter(name for group in groups for name in group)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ConfigError(
            f"{called} holds {', '.join(twice[:5])} more than once. Give each parameter to "
            "one group."
        )
    if not counts:
        raise ConfigError(f"{called} holds no parameter of {owner}: nothing would be saved.")
    return groups


def live_catalogue(
    model: nn.Module,
    trained: Collection[str],
    *,
    shape_of: Callable[[nn.Parameter], torch.Size] = lambda p: p.shape,
    dtypes: Mapping[str, torch.dtype] | None = None,
) -> Catalogue:
    """Return what a live model is made of.

    What the optimizer holds is trained, whether or not it needs a gradient now: a script may freeze
    and unfreeze it as it goes.

    Args:
        model: without what was put around it.
        trained: names of what the optimizer holds.
        shape_of: returns the shape of a whole parameter.
        dtypes: of those that are not saved in their own.
    """
    own = dtypes or {}
    first_name: dict[int, str] = {}
    kinds: dict[str, dict[str, Any]] = {MASTER: {}, FROZEN: {}}
    aliases: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first_name:
            aliases[name] = first_name[id(parameter)]
            continue
        first_name[id(parameter)] = name
        key = MASTER if name in trained else FROZEN
        dtype = own.get(name, parameter.dtype)
        kinds[key][name] = spec_of(name, key, shape_of(parameter), dtype)
    return Catalogue(
        trainable=kinds[MASTER],
        frozen=kinds[FROZEN],
        buffers=buffer_specs(model),
        aliases=aliases,
    )
