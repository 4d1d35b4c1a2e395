"""What an importer finds: tensors by neutral name, each read when it is asked for."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from ..format.strict_json import JSON
from ..format.tensor_spec import TensorSpec

WEIGHT = "param"
"""The key under which an imported weight is kept: who trains it, a checkpoint does not say."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """One tensor of another program's checkpoint."""

    spec: TensorSpec
    read: Callable[[], torch.Tensor]
    """Returns [numel], row-major, on the CPU."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Another program's checkpoint, opened and understood."""

    kind: str
    """For people: "torch DCP"."""
    tensors: tuple[Foreign, ...]
    scalars: Mapping[str, Mapping[str, float | int]] = field(default_factory=dict)
    """Per-parameter numbers of the optimizer, such as {"fc.weight": {"step": 10.0}}."""
    ignored: tuple[str, ...] = ()
    """What is there and is not taken over, for people."""
    facts: Mapping[str, JSON] = field(default_factory=dict)
    opened: ExitStack = field(default_factory=ExitStack)
    """Closes what the readers use."""
