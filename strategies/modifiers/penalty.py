"""L1 and L2 penalties on the weights, exact however the weights are sharded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from ..errors import ConfigError

_ELEMENTS_AT_ONCE = 1 << 24


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

    def add_gradients(
        self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], divisor: float
    ) -> None:
        """Add its gradient, times `divisor`, to shares of the summed gradient, in place.

        Args:
            pairs: share of the gradient and of the weight, of what it covers; plain tensors.
            divisor: samples (times the loss scale) that were summed.
        """
        for some in _in_parts(pairs):
            grads, weights = [grad for grad, _ in some], [weight.detach() for _, weight in some]
            if self.l1:
                signs = torch._foreach_sign(weights)
                torch._foreach_add_(grads, signs, alpha=self.l1 * divisor)
            if self.l2:
                torch._foreach_add_(grads, weights, alpha=2.0 * self.l2 * divisor)


def _in_parts(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Yield them in few parts, so that signs of all weights are never there together."""
    part: list[tuple[torch.Tensor, torch.Tensor]] = []
    elements = 0
    for grad, weight in pairs:
        if part and elements + weight.numel() > _ELEMENTS_AT_ONCE:
            yield part
            part, elements = [], 0
        part.append((grad, weight))
        elements += weight.numel()
    if part:
        yield part
