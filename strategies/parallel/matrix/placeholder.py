"""What stands for a parameter where its values are not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def placeholder(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return a tensor (float32) of a shape, with the memory of one element."""
    if math.prod(shape) <= 1:
        return torch.zeros(tuple(shape), device=device)  # an expanded one keeps a stride of 0
    return torch.zeros((), device=device).expand(tuple(shape))
