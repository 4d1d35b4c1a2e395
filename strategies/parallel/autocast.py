"""Mixed precision for models that keep their fp32 parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from ..precision import Precision


class _Around(nn.Module):
    """A module around `self.model`, whose attributes are reachable through it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


class Autocast(_Around):
    """Runs a model's forward under torch.autocast and returns its outputs in the output dtype."""

    def __init__(self, model: nn.Module, precision: Precision, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self._precision = precision
        self._device_type = device.type

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; floating-point outputs come back as `Precision.output_dtype`."""
        if not self._precision.is_mixed:
            return self.model(*args, **kwargs)
        with torch.autocast(self._device_type, dtype=self._precision.compute_dtype):
            return cast_floating(self.model(*args, **kwargs), self._precision.output_dtype)


def cast_floating(value: Any, dtype: torch.dtype) -> Any:
    """Cast every floating-point tensor in a nested value."""
    return tree_map_only(torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, value)


class CastAround(_Around):
    """Casts floating-point inputs to the compute dtype and outputs back, around a cast model."""

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self._precision = precision

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; floating-point outputs come back as `Precision.output_dtype`."""
        if not self._precision.is_mixed:
            return self.model(*args, **kwargs)
        args, kwargs = cast_floating((args, kwargs), self._precision.compute_dtype)
        return cast_floating(self.model(*args, **kwargs), self._precision.output_dtype)
