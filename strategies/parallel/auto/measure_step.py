"""What an optimizer keeps and what its step makes for a moment, tried out on a few elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import nn

from ..model.factory_checks import made_optimizer
from ..strategy import Parameters
from .live_bytes import FollowingMode

_TRIED_ELEMENTS = 65536
"""So many stand for the whole model."""


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """Bytes of an optimizer over a whole model."""

    state_bytes: int
    stepping_bytes: int
    """The most that a step over all parameters makes beside the state."""
    stepping_element_bytes: int
    """The most for an element, when one tensor is stepped."""


def measure_step(
    optimizer: Callable[[Parameters], torch.optim.Optimizer],
    named: Sequence[tuple[str, nn.Parameter]],
    device_type: str,
) -> StepSizes:
    """Step the user's optimizer over a model in small, with the same proportions.

    Args:
        optimizer: the user's factory.
        named: the trainable parameters, on any device.
        device_type: where the run computes.
    """
    total = sum(p.numel() for _, p in named)
    scale = max(1.0, total / _TRIED_ELEMENTS)
    small = [
        (name, nn.Parameter(torch.ones([1] * (p.ndim - 1) + [ceil(p.numel() / scale)][: p.ndim])))
        for name, p in named
    ]
    made = made_optimizer(optimizer, Parameters(small))
    if device_type != "cpu":
        _as_on_device(made)
    _fill(p for _, p in small)
    made.step()
    _fill(p for _, p in small)
    stepping = _peak_bytes(made)
    largest = max((p for _, p in small), key=torch.Tensor.numel)
    made.zero_grad()
    _fill([largest])
    alone = _peak_bytes(made)
    return StepSizes(
        state_bytes=sum(
            _state_element_bytes(made, one) * p.numel()
            for (_, p), (_, one) in zip(named, small, strict=True)
        ),
        stepping_bytes=round(stepping * total / sum(p.numel() for _, p in small)),
        stepping_element_bytes=ceil(alone / largest.numel()),
    )


def _as_on_device(optimizer: torch.optim.Optimizer) -> None:
    # torch steps all tensors of an accelerator together unless configured otherwise
    # (torch/optim/optimizer.py, _default_to_fused_or_foreach), and then has temporaries of all.
    for group in optimizer.param_groups:
        if group.get("foreach", False) is None and not group.get("fused"):
            group["foreach"] = True


def _fill(parameters: Any) -> None:
    for one in parameters:
        one.grad = torch.ones_like(one)


def _state_element_bytes(optimizer: torch.optim.Optimizer, one: torch.Tensor) -> int:
    kept = [t for t in optimizer.state[one].values() if isinstance(t, torch.Tensor)]
    return sum(t.element_size() for t in kept if t.shape == one.shape and t.ndim > 0)


def _peak_bytes(optimizer: torch.optim.Optimizer) -> int:
    made = _Made()
    with made:
        optimizer.step()
    return made.live.peak_bytes


class _Made(FollowingMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of all tensors that are made within it."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Carry out one operation and count what it makes."""
        return self.follow(func, args, kwargs or {}, lambda tensor: tensor.ndim > 0)
