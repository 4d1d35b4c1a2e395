"""What a script's factories return, looked at before anything is built on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from ...errors import ConfigError, some_of

_COMPILED = "_orig_mod"
"""Where torch.compile keeps the module that it was given, and so a part of every name in it."""
_SHOWN = 5


def made_model(factory: Callable[[], nn.Module]) -> nn.Module:
    """Call a model's factory.

    Raises:
        ConfigError: what it returns cannot be spread over ranks, or not under every strategy.
    """
    model: Any = factory()
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model= returned {_kind(model)}; it must return a torch.nn.Module, such as "
            "model=lambda: Net(...)."
        )
    if isinstance(model, nn.DataParallel | DistributedDataParallel):
        raise ConfigError(
            f"model= returned {_kind(model)}, and the strategy spreads the model over the ranks. "
            "Return the module that is inside."
        )
    modules = dict(model.named_modules())
    if compiled := [name for name, module in modules.items() if hasattr(module, _COMPILED)]:
        raise ConfigError(
            f"model= returned what torch.compile made of {_list(compiled)}, which renames the "
            "parameters, and their names are those of the checkpoints. Return the plain module and "
            "pass compile_blocks=True."
        )
    sparse = [name for name, module in modules.items() if _has_sparse_gradients(module)]
    if sparse:
        raise ConfigError(
            f"sparse gradients are not summed over ranks here, and the model asks for them with "
            f"sparse=True ({_list(sparse)}). Leave it out."
        )
    if unshaped := [name for name, tensor in _tensors(model) if _has_no_shape(tensor)]:
        raise ConfigError(
            f"the model has Lazy modules, without shapes before a first batch ({_list(unshaped)}). "
            "Give them their sizes, or call the model once inside its factory."
        )
    return model


def refuse_empty(named: Iterable[tuple[str, nn.Parameter]], strategy: str) -> None:
    """Refuse parameters without elements, which some engines cannot cut.

    Raises:
        ConfigError: naming them.
    """
    if empty := [name for name, parameter in named if not parameter.numel()]:
        raise ConfigError(
            f"parameters without elements ({_list(empty)}) cannot be cut into shards under "
            f"strategy={strategy}. Leave them out of the model, or use --strategy ddp or zero2."
        )


def made_optimizer(factory: Callable[[Any], Any], parameters: object) -> torch.optim.Optimizer:
    """Call an optimizer's factory with the parameters that it is for.

    Raises:
        ConfigError: torch refuses what it asks for; what it returns is no optimizer, or one that
            computes the loss by itself.
    """
    try:
        optimizer = factory(parameters)
    except (TypeError, ValueError) as error:
        if not _is_raised_in(error, "torch.optim"):
            raise
        raise ConfigError(
            f"the optimizer cannot be made: {error}. The function given as optimizer= is called "
            "with the trainable parameters; pass these on, or groups of them, with valid settings, "
            "such as optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3)."
        ) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"optimizer= returned {_kind(optimizer)}; it must return a torch.optim.Optimizer, such "
            "as optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3)."
        )
    if not isinstance(getattr(optimizer, "param_groups", None), list):
        raise ConfigError(
            f"optimizer= returned {_kind(optimizer)}, which has no parameter groups to set a "
            "learning rate in. Return the optimizer that it is around."
        )
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise ConfigError(
            f"optimizer= returned {_kind(optimizer)}, whose __init__ does not call that of "
            "torch.optim.Optimizer, so that hooks cannot be registered. Call "
            "super().__init__(parameters, defaults) in it."
        )
    rates = [group.get("lr") for group in optimizer.param_groups]
    if odd := [rate for rate in rates if isinstance(rate, float) and not math.isfinite(rate)]:
        raise ConfigError(
            f"optimizer= returned {_kind(optimizer)} with a learning rate of {odd[0]}. Give it a "
            "finite number, such as lr=1e-3."
        )
    closure = signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is Parameter.empty:
        raise ConfigError(
            f"optimizer= returned {_kind(optimizer)}, whose step computes the loss again, several "
            "times a step (it needs a closure). Use one that steps on the gradient, such as AdamW."
        )
    return optimizer


def _tensors(model: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _has_no_shape(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, UninitializedParameter | UninitializedBuffer)


def _has_sparse_gradients(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse


def _is_raised_in(error: Exception, package: str) -> bool:
    """Return whether the innermost frame is in a package, and not in the script's own code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith(package)


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _list(names: list[str]) -> str:
    return some_of([name or "the whole model" for name in names], _SHOWN)
