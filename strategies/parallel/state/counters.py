"""Which of the numbers that an optimizer keeps belong to a parameter's element, and which count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_COUNTERS = ("step",)
"""What torch's optimizers count in, where no other parameter tells."""


def is_counter(
    optimizer: torch.optim.Optimizer, owner: torch.Tensor, key: str, value: torch.Tensor
) -> bool:
    """Return whether a state tensor counts for its owner as a whole, and is none of its moments.

    A parameter of no dimension has moments that look like counters. What is kept under the same key
    for a parameter with dimensions tells.

    Args:
        optimizer: whose state it is.
        owner: the tensor by which the state is keyed.
        key: such as "exp_avg" or "step".
        value: what is kept.
    """
    if value.ndim:
        return False
    if owner.ndim:
        return True
    kept: Mapping[Any, Any] = optimizer.state  # also what parameters share, by other keys
    for other, state in kept.items():
        if not isinstance(other, torch.Tensor) or not other.ndim:
            continue
        if isinstance(same := state.get(key), torch.Tensor):
            return same.ndim == 0
    return key in _COUNTERS
