"""Whether all ranks have built the same model, before an engine takes it for granted.

A model that a script builds when it is imported has other random weights on each rank, and one that
depends on the rank has other shapes. DDP would take rank 0's weights, FSDP a mixture, and DeepSpeed
and torch would fail later, in words that name something else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from checkpointing import JSON

from ...collectives.process_group import HostCommunicator, Ranks
from ...errors import ConfigError

SAMPLE = 1024
"""First elements of a tensor whose values are compared."""
TOLERANCE = 1e-3
"""Of the mean magnitude. Processors of several kinds draw numbers that differ in the last bits."""


def refuse_unlike_models(model: nn.Module, ranks: Ranks) -> None:
    """Compare names, shapes, dtypes and some values over the ranks. Called on every rank.

    Args:
        model: Of tensors without memory only the shapes are compared.
        ranks: All that build it.

    Raises:
        ConfigError: on every rank, where one differs from rank 0.
    """
    if ranks.world_size == 1:
        return
    communicator = HostCommunicator(ranks)
    own = signature(model)
    first = cast(list[Any], communicator.broadcast(own))
    found = communicator.all_gather(difference(first, own))
    unlike = [(rank, what) for rank, what in enumerate(found) if what is not None]
    if unlike:
        rank, what = unlike[0]
        raise ConfigError(
            "the model that the function passed as model= returns is not the same on all ranks: "
            f"rank {rank} has {what}. Build the model within that function, where all ranks draw "
            "the same random numbers, and not when the script is imported; and not by the rank."
        )


def signature(model: nn.Module) -> list[JSON]:
    """Return name, dtype, shape and two sums (float64) of each parameter and buffer."""
    named = [*model.named_parameters(), *model.named_buffers()]
    sums = [_sums(tensor.detach()) for _, tensor in named]
    known = [one for one in sums if one is not None]
    device = known[0].device if known else None
    values = iter(torch.stack([one.to(device) for one in known]).tolist() if known else ())
    return [
        [
            name,
            str(tensor.dtype).removeprefix("torch."),
            list(tensor.shape),
            None if one is None else next(values),
        ]
        for (name, tensor), one in zip(named, sums, strict=True)
    ]


def _sums(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return the sum and the sum of magnitudes of its first elements; None: it has no such."""
    if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
        return None
    flat = tensor.reshape(-1)[:SAMPLE]
    values = (torch.view_as_real(flat) if flat.is_complex() else flat).to(torch.float64)
    return torch.stack([values.sum(), values.abs().sum()])


def difference(first: Sequence[Any], own: Sequence[Any]) -> str | None:
    """Return where a rank's signature differs from that of rank 0; None: nowhere. Pure."""
    for ours, theirs in zip(own, first, strict=False):
        (name, dtype, shape, sums), (other, other_dtype, other_shape, other_sums) = ours, theirs
        if (name, dtype, shape) != (other, other_dtype, other_shape):
            return f"{name} {dtype}{shape}, and rank 0 {other} {other_dtype}{other_shape}"
        if sums is not None and other_sums is not None and not _is_close(sums, other_sums):
            return f"other values in {name} than rank 0"
    if len(own) != len(first):
        return f"{len(own)} parameters and buffers, and rank 0 {len(first)}"
    return None


def _is_close(own: Sequence[float], other: Sequence[float]) -> bool:
    if not all(map(math.isfinite, (*own, *other))):
        return True  # a mask of -inf, or memory that is filled later: no number tells
    bound = TOLERANCE * max(own[1], other[1])
    return all(abs(a - b) <= bound for a, b in zip(own, other, strict=True))
