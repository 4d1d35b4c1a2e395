"""What stands around a model for its engine: calls of its methods, and mixed precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from ...precision import Precision


class _Around(nn.Module):
    """A module around `self.model`, whose attributes are reachable through it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


class Relay(_Around):
    """Lets an engine's forward carry out a method of the model, or a part, as if it were it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._called: Callable[..., Any] | None = None

    def call(
        self,
        engine: nn.Module,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Carry out `function` inside the forward of the engine that this was given to."""
        self.__dict__["_called"] = function
        try:
            return engine(*args, **kwargs)
        finally:
            self.__dict__["_called"] = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run what is called, or the model."""
        function = self.__dict__["_called"] or self.model
        self.__dict__["_called"] = None
        return function(*args, **kwargs)


class Autocast(Relay):
    """Runs a model's forward under torch.autocast and returns its outputs in the output dtype."""

    def __init__(self, model: nn.Module, precision: Precision, device: torch.device) -> None:
        super().__init__(model)
        self._precision = precision
        self._device_type = device.type

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model; floating-point outputs come back as `Precision.output_dtype`."""
        if not self._precision.is_mixed:
            return super().forward(*args, **kwargs)
        with torch.autocast(self._device_type, dtype=self._precision.compute_dtype):
            return cast_floating(super().forward(*args, **kwargs), self._precision.output_dtype)


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


@contextmanager
def forward_replaced(model: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Have the next call of a model carry out a function, with all hooks around it."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        put_back()
        return function(*args, **kwargs)

    own = model.__dict__.get("forward")

    def put_back() -> None:
        model.__dict__.pop("forward", None)
        if own is not None:
            model.__dict__["forward"] = own

    model.__dict__["forward"] = forward
    try:
        yield
    finally:
        put_back()
