"""Gradients that a script changes by itself, between two micro-batches or before the update.

Until a step's update a gradient is the sum over this rank's micro-batches so far. What is clipped,
dropped or added there gives another curve on another number of ranks. Whoever does it does it in
every micro-batch: the first ones of a start are looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch.distributed.tensor import DTensor

from ...errors import ConfigError
from ...modifiers.ema import local_part
from .unused_parameters import Mark

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
        self._left = _marks(self._named) if self._num_left >= 0 else None

    def require_as_left(self, where: str) -> None:
        """Look whether they are as they were left. No collective.

        Args:
            where: begins the sentence.

        Raises:
            ConfigError: they are not.
        """
        if (changed := self._changed()) is not None:
            raise ConfigError(
                f"{where}: the script has changed the gradient of {changed} (by loss.backward(), "
                "zero_grad(), clip_grad_norm_() or a write to .grad). It is a sum over this rank's "
                "micro-batches so far, so the curve would depend on the number of ranks. "
                "step.backward(loss, count) computes gradients, and the run drops them after each "
                "step. To clip them pass run.prepare(max_grad_norm=...). What else is done to "
                "gradients belongs into the step of the optimizer, which gets the mean over all "
                "ranks."
            )

    def _changed(self) -> str | None:
        if self._left is None:
            return None
        pairs = zip(self._named, self._left, _marks(self._named), strict=True)
        return next((name for (name, _), a, b in pairs if a != b), None)


class ArrivalWatch(GradientWatch):
    """The same where an engine takes gradients out of `.grad`: it sees those that come."""

    def __init__(self, named: Sequence[tuple[str, torch.Tensor]]) -> None:
        """Watch for gradients of named parameters."""
        super().__init__(named)
        self._come: str | None = None
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                partial(self._note, name)
            )
            for name, parameter in named
        ]

    def begin(self) -> None:
        """Begin a micro-batch, or end the watch."""
        super().begin()
        if self._num_left < 0:
            for hook in self._hooks:
                hook.remove()
            self._hooks.clear()

    def leave(self) -> None:
        """Forget those that the engine's backward has brought. No collective."""
        self._come = None

    def _note(self, name: str, _: torch.Tensor) -> None:
        self._come = name

    def _changed(self) -> str | None:
        return self._come


def _marks(named: Sequence[tuple[str, torch.Tensor]]) -> list[Mark]:
    """Return what every change of a gradient changes.

    A plain one counts its changes. One in shards does not, nor does this rank's share of it: there
    the bits of the share's norm tell.
    """
    grads = [tensor.grad for _, tensor in named]
    norms = iter(_norm_bits([local_part(g) for g in grads if isinstance(g, DTensor)]))
    return [
        None
        if grad is None
        else (id(grad), next(norms) if isinstance(grad, DTensor) else grad._version)
        for grad in grads
    ]


def _norm_bits(shares: list[torch.Tensor]) -> list[int]:
    if not shares:
        return []
    real = [torch.view_as_real(share) if share.is_complex() else share for share in shares]
    norms = torch.stack(torch._foreach_norm(real, 2, dtype=torch.float64))
    bits: list[int] = norms.view(torch.int64).tolist()
    return bits
