"""The global gradient norm and the one factor by which gradients are multiplied.

The same arithmetic under every strategy: squares summed in float64, one multiplication in fp32.
A norm taken in fp32 would be off by 1e-6 of it, by another amount under every sharding, and through
clipping so would every parameter. On the host, where float64 takes several times as long, rows of
1024 elements are taken in fp32 where there are many: their errors cancel out, to less than 1e-8.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist

from ..process_group import Ranks

_ROW = 1024
_MANY = 64
_SAFE = (1e-24, 1e38)
"""Sums of squares that neither overflow fp32 nor lose anything that counts to its smallest."""
_NORM_EPSILON = 1e-6
"""As in torch.nn.utils.clip_grad_norm_."""


def sum_of_squares(grads: Iterable[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Return the sum of squares of all elements as a 0-dim float64 tensor on `device`."""
    held = list(grads)
    if sum(grad.numel() for grad in held if grad.is_cpu) > _ROW * _MANY:
        squares = _by_rows(held, device)
        if _SAFE[0] < float(squares) < _SAFE[1]:
            return squares
    return _by_norms(held, device)


def sum_over_ranks(number: torch.Tensor, ranks: Ranks) -> float:
    """Return the sum of a 0-dim float64 tensor on `ranks.device`. Called on every rank."""
    if ranks.neighbours is not None:
        return ranks.neighbours.start([float(number)]).wait()[0]
    dist.all_reduce(number)
    return float(number)


def _by_norms(held: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    if not held:
        return torch.zeros((), dtype=torch.float64, device=device)
    # By way of the norms: they add up in float64 without a copy of the gradients in it.
    norms = torch._foreach_norm(held, 2, dtype=torch.float64)
    # Offloaded gradients are on the host; all ranks must reduce on one kind of device.
    return torch.stack(norms).square().sum().to(device)


def _by_rows(held: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Take whole rows on the host in fp32, and everything else in float64."""
    norms, ends, others = [], [], []
    for grad in held:
        if not (grad.is_cpu and grad.dtype == torch.float32 and grad.is_contiguous()):
            others.append(grad)
            continue
        flat = grad.view(-1)
        end = len(flat) // _ROW * _ROW
        if end:
            norms.append(torch.linalg.vector_norm(flat[:end].view(-1, _ROW), dim=1))
        if end < len(flat):
            ends.append(flat[end:] if end else flat)
    squares = _by_norms(others, device)
    for part in (norms, ends):
        if part:
            numbers = torch.cat(part).double()
            squares = squares + numbers.dot(numbers).to(device)
    return squares


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
