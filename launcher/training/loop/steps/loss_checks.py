"""What `step.backward` refuses and warns of, before a rank could wait for another. Pure."""

from __future__ import annotations

from typing import Any

import torch

from strategies import ConfigError
from strategies.data.batches import MicroBatch

_MEAN = 1
"""torch's number for reduction="mean" (aten/src/ATen/core/Reduction.h)."""


def require_number(loss: Any) -> None:
    """Refuse a loss that is not one number in a tensor.

    Raises:
        ConfigError: naming its type or shape.
    """
    if not isinstance(loss, torch.Tensor):
        raise ConfigError(
            f"step.backward got a loss of type {type(loss).__name__}; it needs a tensor that "
            "was computed from the model's output. Leave .item() and float() out."
        )
    if loss.ndim != 0:
        raise ConfigError(
            f"step.backward got a loss of shape {tuple(loss.shape)}; it needs the sum over the "
            'samples, one number. Use reduction="sum", or loss.sum().'
        )


def require_gradient(loss: torch.Tensor, where: str) -> None:
    """Refuse a loss that no parameter is in.

    Raises:
        ConfigError: naming the micro-batch.
    """
    if not loss.requires_grad:
        raise ConfigError(
            f"{where}: the loss depends on no trainable parameter. Compute it from "
            "job.model(...), without torch.no_grad() and detach()."
        )


def require_finite(loss: torch.Tensor, micro_batch: MicroBatch, where: str) -> None:
    """Refuse a loss of the very first step that is not finite: nothing can have diverged yet.

    Not for a micro-batch in which nothing counts: a mean over nothing is NaN, its gradient zero.

    Raises:
        ConfigError: naming the samples.
    """
    if not torch.isfinite(loss.detach()):
        raise ConfigError(
            f"{where} (positions {micro_batch.start} to {micro_batch.end - 1} of the first "
            f"epoch): the loss is {float(loss.detach())}, before anything was trained. Check "
            "these samples and the model's initial weights."
        )


def is_mean(loss: torch.Tensor) -> bool:
    """Return whether the last thing done to a loss was to take a mean, as far as torch tells."""
    last = loss.grad_fn
    reduction = getattr(last, "_saved_reduction", None)
    return reduction == _MEAN or type(last).__name__.startswith("MeanBackward")


def mean_text(count: float) -> str:
    """Return the warning about a mean that was passed with another count than 1."""
    return (
        f"the loss of step 0 is a mean, and it was passed with count={count:g}. "
        "step.backward takes the sum over the samples that count, and computes the mean over "
        'all ranks: use reduction="sum", or pass loss * count.'
    )


def bypass_text(strategy: str) -> str:
    """Return the warning about a loss that was computed beside the engine."""
    return (
        "the loss of step 0 was not computed through job.model. The result is the same "
        f"under strategy={strategy}, but it is refused under others, to which a run may move. "
        "Call job.model(...), or its methods and parts."
    )
