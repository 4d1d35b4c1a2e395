"""What a checkpoint has of an optimizer's state, by parameter, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch

from checkpointing import JSON, TensorSpec

OWN_PREFIX = "optimizer."
"""Stands before a state's key that would be taken for one of the model's."""
Scalars: TypeAlias = Mapping[str, Mapping[str, JSON]]
"""By parameter name what an optimizer keeps besides tensors of the parameter's shape, such as
{"fc.weight": {"step": 10}}, as `typed_values.encode` has it."""


class TensorSource(Protocol):
    """Where restored state comes from: a checkpoint, read by ranges."""

    def read(self, fqn: str, key: str, start: int, end: int) -> torch.Tensor:
        """Return elements [start, end) of the flattened tensor, 1-D, on the CPU."""
        ...

    def read_whole(self, fqn: str, key: str, numel: int) -> torch.Tensor:
        """Return all elements, which every rank needs, 1-D, on the CPU.

        The ranks of a node may read together: called on every rank, for the same tensors in the
        same order, before anything that one rank alone may raise.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SavedParameter:
    """The state kept for one parameter."""

    tensors: Mapping[str, TensorSpec] = field(default_factory=dict)
    """By the key under which they are stored."""
    values: Mapping[str, JSON] = field(default_factory=dict)
    """What else there is by the optimizer's own key, as `typed_values.encode` has it."""


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """The state kept for all parameters."""

    parameters: Mapping[str, SavedParameter]

    @classmethod
    def of(
        cls, tensors: Mapping[str, Mapping[str, TensorSpec]], optimizer: Mapping[str, Any]
    ) -> SavedState:
        """Read what a checkpoint's manifest says, of this release or an earlier one.

        Args:
            tensors: the stored state, by parameter and key.
            optimizer: what the manifest keeps of it besides.
        """
        values = optimizer.get("values")
        if values is None:  # also what `relaunch checkpoint import` has made
            values = {
                name: {key: _counter(number) for key, number in scalars.items()}
                for name, scalars in optimizer["scalars"].items()
            }
        return cls(
            parameters={
                name: SavedParameter(tensors=tensors.get(name, {}), values=values.get(name, {}))
                for name in dict.fromkeys((*tensors, *values))
            }
        )

    def get(self, name: str) -> SavedParameter | None:
        """Return what is kept for a parameter; None: it had no state."""
        return self.parameters.get(name)


def _counter(number: float | int) -> JSON:
    """Return a number of an earlier release, which had tensors as floats, with its type."""
    if isinstance(number, float):
        return {"tensor": {"dtype": "F32", "shape": [], "values": [number]}}
    return number
