"""Parameters that a forward uses under stage 3 without calling the module that has them.

A model that leaves a layer out by chance may write `0 * sum(p.sum() for p in layer.parameters())`
in its place, as it must under other engines. DeepSpeed gathers a module's parameters when it is
called, in the order that it has recorded: so the module is called then too, with a forward that
returns its parameters, and this rank's order is the one of those that compute the layer. Where that
cannot be, what is in shares refuses to be computed with: DeepSpeed leaves an empty tensor there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from ....errors import ConfigError
from ....torch_internals import is_compiled, is_recomputed_later
from ...calls.autocast import forward_replaced
from ...calls.stand_in import StandIn
from ..internals import GRADIENT_OF_A_SHARE, is_gathered

_OF_A_SHARE = (
    GRADIENT_OF_A_SHARE,
    "The size of tensor a (0) must match",
    "must match the size of tensor b (0)",
)
"""Of a backward, in DeepSpeed's stage 3 (0.19) or in torch (2.13): the share of a parameter was
used, or a weight that the forward had read when it was gathered for something else."""


def let_forward_ask_for_parameters(model: nn.Module, bucket_elements: float, strategy: str) -> None:
    """Have a module gather its parameters for a forward that asks for them by `parameters()`.

    Only one whose calls are known: without modules inside, or an `nn.Sequential` of such.

    Args:
        model: as DeepSpeed's engine calls it.
        strategy: its name.
        bucket_elements: of the gradients that DeepSpeed sums at a time. Those of a larger model are
            cut into several sums, at another place where a rank has them in another order: in it
            nothing is gathered so. inf: where they are cut does not depend on that order.
    """
    sizes = (parameter.ds_numel for parameter in model.parameters())  # type: ignore[attr-defined]
    _UsedOutside(model, strategy, may_gather=sum(sizes) <= bucket_elements)


def used_without_call(strategy: str, what: str) -> ConfigError:
    """Return what is raised where shares of parameters are used."""
    return ConfigError(
        "the model's forward uses the parameters of a layer without calling it, and under "
        f"strategy={strategy} they are gathered when it is called ({what}). Call the layer, and "
        "multiply its output by 0 to leave it out. For a penalty on weights pass "
        "run.prepare(penalty=Penalty(...))."
    )


def is_of_a_share(error: RuntimeError) -> bool:
    """Return whether a backward under stage 3 failed since a share of a parameter was used."""
    return any(words in str(error) for words in _OF_A_SHARE)


class _UsedOutside:
    def __init__(self, root: nn.Module, strategy: str, *, may_gather: bool) -> None:
        self._strategy = strategy
        self._names = {id(p): name for name, p in root.named_parameters()}
        self._is_forward = self._has_answered = self._is_recomputed = False
        self._with_grad = True
        root.register_forward_pre_hook(self._begin)
        root.register_forward_hook(self._end, always_call=True)
        for name, module in root.named_modules():
            if name and may_gather and calls_are_known(module):
                module.register_forward_pre_hook(self._look)
                self._answer(module)
            else:
                self._hand_out_whole_ones(module)

    def _begin(self, *_: Any) -> None:
        self._is_forward, self._has_answered = True, False
        self._with_grad = torch.is_grad_enabled()

    def _end(self, *_: Any) -> None:
        self._is_forward = False
        if self._has_answered and self._is_recomputed:
            raise ConfigError(
                "the model's forward uses the parameters of a layer without calling it, and "
                "recomputes layers in the backward, which under strategy=zero3 gathers what was "
                "called. Call the layer, and multiply its output by 0 to leave it out."
            )

    def _look(self, *_: Any) -> None:
        # By torch.utils.checkpoint: other ranks gather it once more, in their backward.
        if self._is_forward and not self._is_recomputed:
            self._is_recomputed = self._with_grad and is_recomputed_later()

    def _answer(self, module: nn.Module) -> None:
        named_parameters = module.named_parameters

        def answer(*args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
            found = list(named_parameters(*args, **kwargs))
            # Without what is inside, it is DeepSpeed that asks, when it gathers a module.
            recurse = kwargs.get("recurse", args[1] if len(args) > 1 else True)
            if not self._is_forward or not recurse or not found:
                return iter(found)
            self._has_answered = True
            values: dict[int, Any] = gathered(module)
            return iter([(name, values[id(parameter)]) for name, parameter in found])

        module.named_parameters = answer  # type: ignore[method-assign]

    def _hand_out_whole_ones(self, module: nn.Module) -> None:
        named_parameters = module.named_parameters

        def answer(*args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
            recurse = kwargs.get("recurse", args[1] if len(args) > 1 else True)
            if not self._is_forward or not recurse:
                return named_parameters(*args, **kwargs)
            return ((name, self._shown(p)) for name, p in named_parameters(*args, **kwargs))

        module.named_parameters = answer  # type: ignore[method-assign]

    def _shown(self, parameter: Any) -> nn.Parameter:
        if getattr(parameter, "ds_status", None) is None or is_gathered(parameter):
            return parameter  # type: ignore[no-any-return]
        return StandIn(parameter, parameter.ds_shape, partial(self._refuse, parameter))

    def _refuse(self, parameter: nn.Parameter) -> None:
        raise used_without_call(self._strategy, self._names.get(id(parameter), "a parameter"))


def calls_are_known(module: nn.Module) -> bool:
    """Return whether a call of a module calls what is inside in a known order, each once; pure."""
    if "forward" in vars(module) or is_compiled(module):
        return False
    parts = list(module._modules.values())
    if not parts:
        return True
    is_plain = type(module).forward is nn.Sequential.forward
    return is_plain and all(part is not None and calls_are_known(part) for part in parts)


def gathered(module: nn.Module) -> dict[int, torch.Tensor]:
    """Return the whole parameters of a module and what is inside, by id(); on this rank.

    Other ranks may call the module at the same place: it is called here as well, so that what
    DeepSpeed does before and after each call, here and in the backward, is done on all.
    """
    first = next(p for part in module.modules() for p in part._parameters.values() if p is not None)
    token = torch.zeros(
        1, dtype=first.dtype, device=first.device, requires_grad=torch.is_grad_enabled()
    )
    flat = _parameters_through(module, token)[1:]
    values: dict[int, torch.Tensor] = {}
    begin = 0
    for parameter in _in_order(module):
        # The shape while it is gathered is the one that DeepSpeed has noted.
        shape = getattr(parameter, "ds_shape", parameter.shape)
        value = flat[begin : begin + shape.numel()].view(shape).to(parameter.dtype)
        values.setdefault(id(parameter), value)
        begin += shape.numel()
    return values


def _parameters_through(module: nn.Module, token: torch.Tensor) -> torch.Tensor:
    """Call a module with a forward that returns [token, its parameters], as one tensor.

    One, since DeepSpeed counts the outputs. Each call hangs on the token that the former one has
    returned, so that the backward goes through them in the usual order.
    """

    def forward(token: torch.Tensor) -> torch.Tensor:
        found = [p.reshape(-1) for p in module._parameters.values() if p is not None]
        for part in module._modules.values():
            assert part is not None
            inner = _parameters_through(part, token)
            token = inner[:1]
            found.append(inner[1:])
        return torch.cat([token, *found])

    with forward_replaced(module, forward):
        result: torch.Tensor = module(token)
    return result


def _in_order(module: nn.Module) -> Iterator[nn.Parameter]:
    yield from (p for p in module._parameters.values() if p is not None)
    for part in module._modules.values():
        assert part is not None
        yield from _in_order(part)
