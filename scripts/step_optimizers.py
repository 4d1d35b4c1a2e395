"""The optimizers that `bench_step` takes steps with."""

from collections.abc import Callable
from typing import Any

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of Newton's iteration in Muon: https://kellerjordan.github.io/posts/muon/."""


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4)


def muon(parameters: Any) -> torch.optim.Optimizer:
    """Muon for the blocks' matrices, Adam for the rest, in one class as is usual."""
    named = list(parameters.named())
    inner = [p for name, p in named if p.ndim == 2 and "head" not in name]
    rest = [p for name, p in named if p.ndim != 2 or "head" in name]
    return _Muon([{"params": inner, "use_muon": True}, {"params": rest, "use_muon": False}])


class _Muon(torch.optim.Optimizer):
    def __init__(self, groups: Any) -> None:
        super().__init__(groups, {"lr": 1e-4})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            update = _orthogonal if group["use_muon"] else _adam
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(update(p.grad, self.state[p]), alpha=group["lr"])


def _orthogonal(grad: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    momentum = state.setdefault("momentum", torch.zeros_like(grad))
    momentum.lerp_(grad, 0.05)
    x = momentum if len(grad) <= grad.shape[1] else momentum.T
    x = x / (x.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    update: torch.Tensor = x if len(grad) <= grad.shape[1] else x.T
    return update


def _adam(grad: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    step = state.setdefault("step", torch.zeros(()))
    first = state.setdefault("first", torch.zeros_like(grad))
    second = state.setdefault("second", torch.zeros_like(grad))
    step.add_(1)
    first.lerp_(grad, 0.1)
    second.lerp_(grad.square(), 0.01)
    root = (second / (1 - 0.99**step)).sqrt()
    update: torch.Tensor = first / (1 - 0.9**step) / (root + 1e-8)
    return update
