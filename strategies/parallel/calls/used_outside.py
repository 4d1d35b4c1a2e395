"""Parameters of a sharded block that a model uses without calling the block, in its forward.

A model that leaves a layer out by chance may write `0 * sum(p.sum() for p in layer.parameters())`
in its place, as it must under other engines. Other ranks call the layer, and gather it for that: so
this rank takes part, as if it had called the layer with a forward that returns its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from ...collectives.agreed_gathers import NOTHING_GATHERED, AgreedGathers
from ...errors import ConfigError

_METHOD = "_return_parameters"


class UsedOutside:
    """Lets blocks answer for their parameters while the root's forward is under way."""

    def __init__(self, root: nn.Module, gathers: AgreedGathers = NOTHING_GATHERED) -> None:
        """Take a model whose blocks, and itself, are sharded.

        Args:
            root: the model.
            gathers: of the model; an answer is one.
        """
        self._is_forward = False
        self._agreed_gathers = gathers
        root.register_forward_pre_hook(self._begin)
        root.register_forward_hook(self._end, always_call=True)
        for name, module in root.named_modules():
            if name and isinstance(module, FSDPModule):
                self._answer(cast(nn.Module, module), name)

    def _begin(self, *_: Any) -> None:
        self._is_forward = True

    def _end(self, *_: Any) -> None:
        self._is_forward = False

    def _answer(self, block: nn.Module, name: str) -> None:
        named_parameters = block.named_parameters

        def returned(_token: torch.Tensor, names: list[str]) -> list[torch.Tensor]:
            gathered = dict(named_parameters())
            # Through the token the engine sees when their gradients are there.
            return [gathered[one] + 0 * _token.to(gathered[one].dtype) for one in names]

        setattr(block, _METHOD, returned)
        register_fsdp_forward_method(block, _METHOD)

        def answer(*args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
            found = list(named_parameters(*args, **kwargs))
            if not self._is_forward or not any(isinstance(p, DTensor) for _, p in found):
                return iter(found)
            _refuse_nested(block, name)
            self._agreed_gathers.take(f"calls {name}")  # as the other ranks do
            return self._gathered(block, named_parameters, found)

        block.named_parameters = answer  # type: ignore[method-assign]

    def _gathered(
        self,
        block: nn.Module,
        named_parameters: Callable[..., Iterator[tuple[str, nn.Parameter]]],
        found: list[tuple[str, Any]],
    ) -> Iterator[tuple[str, Any]]:
        own = {id(parameter): name for name, parameter in named_parameters()}
        device = found[0][1].device
        token = torch.zeros((), device=device, requires_grad=torch.is_grad_enabled())
        names = [own[id(parameter)] for _, parameter in found]
        values = getattr(block, _METHOD)(token, names)
        return iter([(name, value) for (name, _), value in zip(found, values, strict=True)])


def _refuse_nested(block: nn.Module, name: str) -> None:
    """Refuse where the block is gathered in parts, each when it is called.

    Raises:
        ConfigError: so it is.
    """
    parts = [n for n, m in block.named_modules() if n and isinstance(m, FSDPModule)]
    if parts:
        raise ConfigError(
            f"the model's forward uses the parameters of {name} without calling it, and under "
            f"strategy=fsdp {name}.{parts[0]} is gathered on its own. Call {name}, and multiply "
            "its output by 0."
        )
