"""Gradients of what goes into modules, added up call by call, the same under every engine.

# Note: why an input gets a node of its own
#
# Of a tensor that is used several times torch adds the gradients as they come: last use first. So
# of an encoder's output that each of two decoder blocks uses as keys and as values:
# ((k2 + v2) + k1) + v1. Engines that shard put a node on what goes into a block (fully_shard), or
# into every module (DeepSpeed's stage 3), to learn when its backward is through. What is used
# inside ends in that node, and is added up there first: (k2 + v2) + (k1 + v1). Both are right, and
# their last bits differ. With exact sums every module has such a node in front of each tensor,
# before that of the engine, whether there is an engine or not. Where an engine has one node for all
# inputs, or one for each, in whatever order: what is in front of it runs in the order of the
# forward.
#
# The node is a view: no memory, and what a module does to its input in place the caller sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..calls.model_view import Call, Through

_LAYOUTS = (torch.strided, torch.jagged)
"""Of which there are views."""


def add_up_by_call(model: nn.Module, through: Through) -> Through:
    """Have each call of a model and of its parts add up the gradients of its inputs on its own.

    A call without gradients costs a look.

    Args:
        model: its engine is around it already: what is hooked last is first in a call.
        through: carries a call of the script's out inside the engine's forward.

    Returns:
        What does the same with such a call.
    """
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule) or getattr(module, "inplace", False):
            # The one takes no hooks. The other uses its input once, and returns it: as a view,
            # which fully_shard could not watch.
            continue
        if module._forward_pre_hooks:
            # One of the model's own may keep the input: what is used inside is to be another.
            module.register_forward_pre_hook(_own_inputs, with_kwargs=True)
        module.register_forward_pre_hook(_own_inputs, with_kwargs=True, prepend=True)

    def added_up(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return through(call, *_own_inputs(model, args, kwargs))

    return added_up


def _own_inputs(
    _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with a node for each tensor that requires a gradient.

    Also for those in tuples. Lists, dicts and objects are given as they are: a module may fill
    them for its caller.
    """
    if not torch.is_grad_enabled():
        return args, kwargs
    return tuple(map(_own, args)), {name: _own(value) for name, value in kwargs.items()}


def _own(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        has_views = value.layout in _LAYOUTS
        return value.view_as(value) if value.requires_grad and has_views else value
    if not isinstance(value, tuple):
        return value
    return _remade(value, map(_own, value))


def _remade(like: tuple[Any, ...], values: Iterable[Any]) -> Any:
    """Return a tuple of the same class, a plain one or one with names; others stay as they are."""
    if type(like) is tuple:
        return tuple(values)
    make = getattr(like, "_make", None)
    return like if make is None else make(values)
