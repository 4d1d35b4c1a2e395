"""Weights per sample, in the form in which means are exact: a pair (sum, count)."""

from __future__ import annotations

import torch

from ..errors import ConfigError


def weighted(losses: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (sum of the weighted losses, sum of the weights), for `step.backward` or a metric.

    The gradient of a step is then that of the weighted mean over all micro-batches and ranks:

        step.backward(*weighted(F.cross_entropy(out, y, reduction="none"), weights))

    Args:
        losses: shape (n,) or (n, ...), one value or several per sample.
        weights: shape (n,), or the shape of the losses; finite, and not negative.

    Returns:
        Two 0-dim tensors; gradients flow through the first.

    Raises:
        ConfigError: shapes that do not match, or a negative or non-finite weight.
    """
    if losses.ndim == 0:
        raise ConfigError(
            'weighted got a single loss; it needs one a sample. Use reduction="none".'
        )
    if weights.shape not in (losses.shape, losses.shape[:1]):
        raise ConfigError(
            f"weighted got losses of shape {tuple(losses.shape)} and weights of shape "
            f"{tuple(weights.shape)}; it needs one weight a sample, {tuple(losses.shape[:1])}."
        )
    unfit = ~((weights >= 0) & torch.isfinite(weights))
    if unfit.any():
        place = int(unfit.reshape(-1).nonzero()[0])
        raise ConfigError(
            f"weighted got {int(unfit.sum())} of {weights.numel()} weights that are negative or "
            f"not finite, the first {float(weights.reshape(-1)[place]):g} at {place}; a weight "
            "says how much a sample counts. Use 0 for samples that do not count."
        )
    spread = weights.detach().reshape(weights.shape + (1,) * (losses.ndim - weights.ndim))
    spread = spread.to(losses.dtype).expand_as(losses)
    return (losses * spread).sum(), spread.double().sum()
