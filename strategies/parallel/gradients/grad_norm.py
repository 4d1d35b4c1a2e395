"""The global gradient norm and the one factor by which gradients are multiplied.

The same arithmetic under every strategy: squares summed in float64, one multiplication in fp32.
A norm taken in fp32 would be off by 1e-8 to 1e-6 of it, by another amount under every sharding, and
through clipping so would every parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist

from ...collectives.late_number import LateNumber
from ...collectives.process_group import Ranks

Meanwhile = Callable[[], None] | None
"""What the host does while its device computes a norm; None: it waits."""

_CHUNK = 65536
"""Elements in float64 that stay in a core's cache between their conversion and their sum; so many
for each thread."""
_WORTH_PARTING = 1 << 18
"""Elements whose squares take longer than to tell a sum around."""
_NORM_EPSILON = 1e-6
"""As in torch.nn.utils.clip_grad_norm_."""


def sum_of_squares(grads: Iterable[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Return the sum of squares of all elements as a 0-dim float64 tensor on `device`."""
    held = list(grads)
    squares = torch.zeros((), dtype=torch.float64, device=device)
    elsewhere = [grad for grad in held if not grad.is_cpu]
    if elsewhere:
        # By way of the norms: they add up in float64 without a copy of the gradients in it.
        norms = torch._foreach_norm(elsewhere, 2, dtype=torch.float64)
        squares = torch.stack(norms).square().sum().to(device)
    on_host = [grad for grad in held if grad.is_cpu]
    # Offloaded gradients are there too; all ranks must reduce on one kind of device.
    return squares + _on_host(on_host) if on_host else squares


def _on_host(grads: Iterable[torch.Tensor]) -> float:
    """Convert and sum up chunk by chunk: torch's norm in float64 takes half as long again."""
    most = _CHUNK * torch.get_num_threads()
    chunk = torch.empty(most, dtype=torch.float64)
    squares, filled = 0.0, 0
    for grad in grads:
        for piece in torch.split(grad.reshape(-1), most):
            if filled + len(piece) > most:
                squares, filled = squares + _square(chunk[:filled]), 0
            chunk[filled : filled + len(piece)] = piece
            filled += len(piece)
    return squares + _square(chunk[:filled])


def _square(numbers: torch.Tensor) -> float:
    # In place, and summed in pairs: a dot product's rounding differs from processor to processor
    # and grows with the length.
    return float(numbers.square_().sum())


def number_of(value: torch.Tensor, meanwhile: Meanwhile) -> float:
    """Return a 0-dim tensor as a number; the one wait for the device in a step.

    What the host does meanwhile comes after the number was asked for, so that the device has work
    until then: it is the backward that it still computes.
    """
    if meanwhile is None:
        return float(value)
    late = LateNumber(value)
    meanwhile()
    return float(late)


def squares_of_replicas(
    grads: Sequence[torch.Tensor], ranks: Ranks, meanwhile: Meanwhile = None
) -> float:
    """Return the sum of squares of gradients that are equal on all ranks. Called on every rank.

    Neighbours take a part each of what is on the host, where that is worth a message.
    """
    parted = ranks.neighbours is not None and all(grad.is_cpu for grad in grads)
    if not parted or sum(grad.numel() for grad in grads) < _WORTH_PARTING:
        return number_of(sum_of_squares(grads, ranks.device), meanwhile)
    part = [own_part(grad.reshape(-1), ranks.rank, ranks.world_size) for grad in grads]
    return sum_over_ranks(sum_of_squares(part, ranks.device), ranks, meanwhile)


def own_part(flat: torch.Tensor, rank: int, world_size: int) -> torch.Tensor:
    """Return a view of this rank's elements of a flat tensor: one after the other, each once."""
    return flat[flat.numel() * rank // world_size : flat.numel() * (rank + 1) // world_size]


def sum_over_ranks(number: torch.Tensor, ranks: Ranks, meanwhile: Meanwhile = None) -> float:
    """Return the sum of a 0-dim float64 tensor on `ranks.device`. Called on every rank."""
    if ranks.neighbours is not None:
        return ranks.neighbours.start([number_of(number, meanwhile)]).wait()[0]
    dist.all_reduce(number)
    return number_of(number, meanwhile)


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
