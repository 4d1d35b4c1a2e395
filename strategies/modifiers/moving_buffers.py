"""Buffers that a model's forward moves, put back when a step is given up after its forward.

Norms' statistics are followed by `RunningStatistics`. Any other is recognised by its version, which
torch counts up with each change in place, or named by whoever compared its values: it is copied at
the begin of every step from the first on that has moved it. In the first step of a start there is
nothing to go back to yet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


class MovingBuffers:
    """Follows the buffers of a model. No method is collective."""

    def __init__(self, model: nn.Module) -> None:
        self._owners = [
            (f"{prefix}.{name}", module, name)
            for prefix, module in model.named_modules()
            if not (isinstance(module, _NormBase) and module.running_mean is not None)
            for name, buffer in module.named_buffers(recurse=False)
            if buffer is not None
        ]
        self._marks: dict[str, tuple[int, int]] = {}
        self._moving: set[str] = set()
        self._copies: dict[str, torch.Tensor] = {}

    def begin_step(self) -> None:
        """Copy those that are known to move."""
        live = self._live()
        self._marks = {key: _mark(buffer) for key, buffer in live.items()}
        self._copies = {key: live[key].clone() for key in self._moving if key in live}

    def end_step(self) -> None:
        """Learn which have moved."""
        live = self._live()
        self._moving |= {key for key, mark in self._marks.items() if _mark(live.get(key)) != mark}
        self._copies = {}

    def learn(self, moved: Collection[tuple[int, str]]) -> None:
        """Take more for moving: by the module's id() and its own name for the buffer."""
        self._moving |= {key for key, owner, name in self._owners if (id(owner), name) in moved}

    def give_up(self) -> None:
        """Put back what was copied when the step began."""
        live = self._live()
        with torch.no_grad():
            for key, copy in self._copies.items():
                live[key].copy_(copy)

    def _live(self) -> Mapping[str, torch.Tensor]:
        found = {key: getattr(module, name, None) for key, module, name in self._owners}
        return {key: buffer for key, buffer in found.items() if isinstance(buffer, torch.Tensor)}


def _mark(buffer: torch.Tensor | None) -> tuple[int, int]:
    return (0, 0) if buffer is None else (id(buffer), buffer._version)
