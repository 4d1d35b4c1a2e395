"""What a forward gathers under stage 3, so that the ranks agree on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ....collectives.agreed_gathers import AgreedGathers
from ...calls.unused_parameters import num_reached
from ..internals import is_gathered


def watch_gathers(model: nn.Module, agreed: AgreedGathers) -> None:
    """Have a model's forwards agree on what they gather, from now on.

    Args:
        model: as DeepSpeed's engine calls it.
        agreed: of this rank.
    """
    _Watch(model, agreed)


def num_gathering(loss: torch.Tensor) -> int:
    """Return for how many calls of layers the backward of a loss gathers. No collective."""
    return num_reached(loss, _is_of_layer)


def _is_of_layer(node: Any) -> bool:
    """Whether a node of the graph is DeepSpeed's at an output of a module with parameters."""
    is_here = type(node).__name__ == "PreBackwardFunctionForModuleBackward"
    return is_here and any(p is not None for p in node.module._parameters.values())


class _Watch:
    def __init__(self, root: nn.Module, agreed: AgreedGathers) -> None:
        self._agreed, self._is_forward = agreed, False
        names: Mapping[int, str] = {id(p): name for name, p in root.named_parameters()}
        for name, module in root.named_modules():
            if any(p is not None for p in module._parameters.values()):
                module.register_forward_pre_hook(self._calls(name), prepend=True)
        root.register_forward_pre_hook(self._begin, prepend=True)  # before its own turn
        root.register_forward_hook(self._return)
        root.register_forward_hook(self._end, always_call=True)
        self._weights = list(root.parameters())  # later the loop may get stand-ins for them
        for parameter in root.parameters():
            self._follow_reads(parameter, names[id(parameter)])

    def _begin(self, *_: Any) -> None:
        # An evaluation may call the model once more, such as for another token: nothing is let go.
        held = not torch.is_grad_enabled() and all(map(is_gathered, self._weights))
        self._is_forward = not held
        if self._is_forward:
            self._agreed.call()

    def _return(self, *_: Any) -> None:
        if self._is_forward:
            self._agreed.returned()

    def _end(self, *_: Any) -> None:
        self._is_forward = False

    def _calls(self, name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            # Whether it is gathered now depends on what DeepSpeed has fetched ahead. Also of what
            # is to be held whole: a forward that takes another way than the one before lets it go.
            if self._is_forward:
                self._agreed.take(f"calls {name or 'the model'}")

        return hook

    def _follow_reads(self, parameter: Any, name: str) -> None:
        gather = parameter.all_gather

        def all_gather(*args: Any, **kwargs: Any) -> Any:
            # Without arguments it is what a forward that reads the parameter ends in.
            if self._is_forward and not args and not kwargs and not is_gathered(parameter):
                layer = name.rpartition(".")[0] or "the model"
                self._agreed.take(f"reads {name} without a call of {layer}")
            return gather(*args, **kwargs)

        parameter.all_gather = all_gather
