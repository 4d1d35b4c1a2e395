"""BatchNorm under activation checkpointing: the second forward must not move the statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def hold_statistics_in_recomputation(module: _BatchNorm) -> None:
    """Put the running statistics back after a forward that runs inside a backward.

    torch.utils.checkpoint computes activations again during the backward, whoever called it: this
    package, or the model itself.
    """
    kept: list[torch.Tensor] = []

    def remember(_module: nn.Module, _args: Any) -> None:
        if not torch.compiler.is_compiling() and _inside_backward():
            kept[:] = [buffer.detach().clone() for buffer in module.buffers(recurse=False)]

    def put_back(_module: nn.Module, _args: Any, _output: Any) -> None:
        # Through .data: a backward that has saved the statistics checks that nobody wrote to them.
        for buffer, before in zip(module.buffers(recurse=False), kept, strict=False):
            buffer.data.copy_(before)
        kept.clear()

    module.register_forward_pre_hook(remember)
    # Also when the forward is cut short: checkpoint stops at the last tensor that it needs.
    module.register_forward_hook(put_back, always_call=True)


def _inside_backward() -> bool:
    # What torch.utils.checkpoint itself asks.
    return torch._C._current_graph_task_id() != -1
