"""Optimizer state that torch has rounded at a resume.

`torch.optim.Optimizer.load_state_dict` casts each tensor of state to the dtype of its parameter:
float32 state of bfloat16 weights (as transformers' Adafactor keeps it) loses 16 of 24 bits, and
integers become floats; see `findings/adafactor_state_is_rounded_at_a_resume.sh`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def restore_rounded(optimizer: Any, saved: Mapping[str, Any]) -> None:
    """Put back what was cast to the dtype of its parameter, as it was saved.

    What is held in shards stays as it is.

    Args:
        optimizer: Has loaded `saved`.
        saved: What `optimizer.state_dict()` returned, on any device.
    """
    import torch

    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if len(numbers) != len(parameters):  # of parameters that are flattened together
        return
    for number, parameter in zip(numbers, parameters, strict=True):
        state = optimizer.state.get(parameter, {})
        for key, value in saved["state"].get(number, {}).items():
            now = state.get(key)
            if not (isinstance(value, torch.Tensor) and isinstance(now, torch.Tensor)):
                continue
            is_whole = now.shape == value.shape
            if is_whole and now.dtype == parameter.dtype and value.dtype != now.dtype:
                state[key] = value.to(now.device, copy=True)
