"""Values for a model that was built without memory, before DeepSpeed takes it over.

Under stage 3 each parameter is cut as soon as it has its value, so that no rank ever holds more
than one whole parameter beside its shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ...model.build import Deferred
from ...state.optimizer_state import flat

Cut = Callable[[nn.Parameter], None]


class _Drawn(Mapping[str, torch.Tensor]):
    """Every parameter's initial value, flat, on the host; drawn again whenever it is asked for."""

    def __init__(self, deferred: Deferred) -> None:
        self._deferred = deferred
        self._names = [name for name, _ in deferred.model.named_parameters()]

    def __getitem__(self, name: str) -> torch.Tensor:
        return flat(self._deferred.value(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def initial_values(model: nn.Module, deferred: Deferred | None) -> Mapping[str, torch.Tensor]:
    """Return every parameter as it was built, flat, on the host: DeepSpeed casts the model.

    Args:
        model: before DeepSpeed takes it over.
        deferred: what draws its values, if it has no memory.
    """
    if deferred is not None:
        return _Drawn(deferred)
    return {name: flat(p).cpu().clone() for name, p in model.named_parameters()}


def fill(
    deferred: Deferred,
    optimizer: torch.optim.Optimizer,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    cut: Cut | None,
) -> None:
    """Fill the parameters one after the other, in the model and in the optimizer's groups.

    Called on every rank.

    Args:
        deferred: whose model has no memory.
        optimizer: made over its parameters, which had shapes to sort them by.
        device: where the values go.
        dtype: of floating-point parameters; None: as they were built.
        cut: is given each parameter as soon as it is filled; collective. None: all ranks keep all.
    """
    empty = dict(deferred.model.named_parameters())
    for name, parameter in empty.items():
        wanted = dtype if parameter.is_floating_point() and dtype else parameter.dtype
        value = deferred.value(name).to(device, wanted, copy=True)
        filled = nn.Parameter(value, requires_grad=parameter.requires_grad)
        filled.__dict__.update(parameter.__dict__)
        deferred.put(name, filled)
        del value
        if cut is not None:
            cut(filled)
    filled_as = {id(p): deferred.model.get_parameter(name) for name, p in empty.items()}
    for group in optimizer.param_groups:
        group["params"] = [filled_as[id(parameter)] for parameter in group["params"]]
    deferred.fill_buffers(device)


def cutter(zero_init: Callable[..., Any], config: Mapping[str, Any]) -> Cut:
    """Return what shards a parameter as DeepSpeed's stage 3 does.

    Args:
        zero_init: `deepspeed.zero.Init`.
        config: of the engine that will take the model over.
    """
    first: list[Any] = []

    def cut(parameter: nn.Parameter) -> None:
        if first:
            first[0].convert_to_zero_parameters(param_list=[parameter])
            return
        holder = nn.Module()
        holder.register_parameter("parameter", parameter)
        zero_init(module=holder, config_dict_or_path=dict(config))
        first.append(parameter)

    return cut
