"""Gradients that a script changes by itself, between two micro-batches or before the update.

Until a step's update a gradient is the sum over this rank's micro-batches so far. What is clipped,
dropped or added there gives another curve on another number of ranks. Whoever does it does it in
every micro-batch: the first ones of a start are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...errors import ConfigError
from .unused_parameters import Mark, marks

WATCHED = 8
"""Micro-batches of each start."""


class GradientWatch:
    """Compares gradients with how they were left."""

    def __init__(self, named: Sequence[tuple[str, torch.Tensor]]) -> None:
        """Watch the gradients of named parameters."""
        self._named = named
        self._left: list[Mark] | None = None
        self._num_left = WATCHED

    def begin(self) -> None:
        """Begin a micro-batch: the script's code comes next."""
        self._num_left -= 1
        self.leave()

    def leave(self) -> None:
        """Take the gradients as they are now. No collective."""
        self._left = marks(self._named) if self._num_left >= 0 else None

    def require_as_left(self, where: str) -> None:
        """Look whether they are as they were left. No collective.

        Args:
            where: begins the sentence.

        Raises:
            ConfigError: they are not.
        """
        if self._left is None:
            return
        now = marks(self._named)
        pairs = zip(self._named, self._left, now, strict=True)
        changed = next((name for (name, _), a, b in pairs if a != b), None)
        if changed is not None:
            raise ConfigError(
                f"{where}: the script has changed the gradient of {changed} (by loss.backward(), "
                "zero_grad(), clip_grad_norm_() or a write to .grad). It is a sum over this rank's "
                "micro-batches so far, so the curve would depend on the number of ranks. "
                "step.backward(loss, count) computes gradients, and the run drops them after each "
                "step. To clip them pass run.prepare(max_grad_norm=...). What else is done to "
                "gradients belongs into the step of the optimizer, which gets the mean over all "
                "ranks."
            )
