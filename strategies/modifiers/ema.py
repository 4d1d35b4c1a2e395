"""Exponential moving average of the weights, kept where the optimizer keeps its moments.

So it is sharded as the masters are, stored as `ema` beside them, and moves between strategies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor

from ..errors import ConfigError

AVERAGE = "ema"
"""Key of the average in the optimizer's state and in checkpoints."""


@dataclass(frozen=True, kw_only=True)
class EMA:
    """Moving average of the weights: average <- decay * average + (1 - decay) * weights.

    It is updated after each applied step, and starts as the weights after the parameter's first
    step.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ConfigError(f"decay={self.decay} of the EMA must be in [0, 1).")

    def update(self, optimizer: torch.optim.Optimizer, owners: Iterable[torch.Tensor]) -> None:
        """Move the averages of what this rank holds. No collective.

        Args:
            optimizer: has stepped all of the owners.
            owners: the tensors by which its state is keyed.
        """
        averages, weights = [], []
        for owner in owners:
            state = optimizer.state[owner]
            if (average := state.get(AVERAGE)) is not None:
                averages.append(_held(average))
                weights.append(_held(owner))
            else:
                state[AVERAGE] = owner.detach().clone()
        if averages:
            # At once: one by one, and through a DTensor's dispatch, it takes longer than the step.
            with torch.no_grad():
                torch._foreach_lerp_(averages, weights, 1.0 - self.decay)


def drop_average(optimizer: torch.optim.Optimizer) -> None:
    """Forget averages that a checkpoint brought and the script does not ask for."""
    for state in optimizer.state.values():
        state.pop(AVERAGE, None)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this rank holds of a tensor that may be sharded, detached."""
    return _held(tensor).detach()


def _held(tensor: torch.Tensor) -> torch.Tensor:
    # What `to_local` returns, without the way of a DTensor through autograd.
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor
