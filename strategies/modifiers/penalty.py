"""L1 and L2 penalties on the weights, exact however the weights are sharded."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from ..errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """l1 * sum |w| + l2 * sum w**2, added to the mean loss of a step.

    Its gradient is added once to each element of the summed gradient, on the rank that holds the
    element, so it does not depend on micro-batches and ranks. Clipping includes it; the loss in
    metrics.jsonl does not.
    """

    l1: float = 0.0
    l2: float = 0.0
    names: tuple[str, ...] = ("*",)
    """Name patterns of the parameters that it applies to, such as "*.weight"."""

    def __post_init__(self) -> None:
        for name in ("l1", "l2"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be 0 or above.")

    def covers(self, fqn: str) -> bool:
        """Whether it applies to the parameter of this name."""
        return any(fnmatchcase(fqn, pattern) for pattern in self.names)

    def add_gradient(self, grad: torch.Tensor, weight: torch.Tensor, divisor: float) -> None:
        """Add its gradient, times `divisor`, to a share of the summed gradient, in place."""
        weight = weight.detach()
        if self.l1:
            grad.add_(weight.sign(), alpha=self.l1 * divisor)
        if self.l2:
            grad.add_(weight, alpha=2.0 * self.l2 * divisor)
