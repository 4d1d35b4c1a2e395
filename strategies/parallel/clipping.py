"""The global gradient norm and the one factor by which gradients are multiplied.

The same arithmetic under every strategy: squares summed in float64, one multiplication in fp32.
A norm taken in fp32 would differ in its last bits with the sharding, and through clipping so would
every parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

_NORM_EPSILON = 1e-6
"""As in torch.nn.utils.clip_grad_norm_."""


def sum_of_squares(grads: Iterable[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Return the sum of squares of all elements as a 0-dim float64 tensor on `device`."""
    # By way of the norms: they add up in float64 without a copy of the gradients in it.
    held = list(grads)
    if not held:
        return torch.zeros((), dtype=torch.float64, device=device)
    norms = torch._foreach_norm(held, 2, dtype=torch.float64)
    # Offloaded gradients are on the host; all ranks must reduce on one kind of device.
    return torch.stack(norms).square().sum().to(device)


def combined_scale(
    squares: float, divisor: float, max_norm: float | None
) -> tuple[float, float, bool]:
    """Return (number to divide the summed gradients by, norm of the mean gradient, finite).

    Args:
        squares: sum of squares of the summed gradient over all ranks.
        divisor: samples (times the loss scale) that were summed.
        max_norm: clip the mean gradient's norm to it; None: no clipping.
    """
    norm = math.sqrt(squares) / divisor if squares >= 0 and divisor else math.nan
    if not math.isfinite(norm):
        return 1.0, norm, False
    clip = 1.0 if max_norm is None else max(1.0, (norm + _NORM_EPSILON) / max_norm)
    return divisor * clip, norm, True
