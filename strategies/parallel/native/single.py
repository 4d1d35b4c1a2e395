"""One process, one device, no communication."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from checkpointing import Fragment

from ...collectives.replicas import Replicas
from ...errors import ConfigError
from ..calls.autocast import Autocast, Relay
from ..calls.model_view import Call
from ..calls.unused_parameters import Mark, marks, may_be_untouched, refuse_untouched
from ..gradients.grad_norm import own_part
from ..gradients.gradient_sums import GradientSums
from ..state.replicated_state import load_replicated, replicated_tensors, striped
from ..state.saved_state import SavedState, TensorSource
from ..strategy import Blueprint, StepOutcome
from .engine import TorchEngine, load_buffers


class Replicated(TorchEngine):
    """Every rank holds the whole model; ddp adds the summing of gradients to it."""

    _relay: Relay
    holds_whole = True

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__(blueprint)
        self._marks: list[Mark] = [None] * len(self._named)
        self._sums = GradientSums(self._named, self.ranks) if self.options.exact else None

    def _through(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._relay.call(self._module, call.function, args, kwargs)

    @property
    def _trouble_of_bypass(self) -> str | None:
        return "its gradients would not be summed over the ranks"

    def backward(self, loss: torch.Tensor, *, where: str = "backward") -> None:
        """Look for parameters that were left out after the backward, which does not wait for them.

        Sums of gradients begin in one order on every rank and are waited for after the last of
        them, so a rank that lacks one comes out of its backward.
        """
        self._refuse_unlike_losses(where)
        if self._sums is not None:
            # No rank waits for another's gradients, so that one may leave parameters out.
            self._accumulate(loss)
            self._sums.add()
            return
        if self.ranks.world_size == 1:
            self._accumulate(loss)
            return
        self._accumulate(loss)
        # One look a micro-batch, not two: where memory is cold each takes as long as a small sum.
        before, self._marks = self._marks, marks(self._named)
        if may_be_untouched(before, self._marks):
            refuse_untouched(loss, self._leaves(), where=where)

    def step(self, divisor: float) -> StepOutcome:
        """Divide, clip and update; no gradient is left."""
        if self._sums is not None:
            inexact = tuple(self._sums.reduce())
            outcome = super().step(divisor)
            return replace(outcome, exponents=self._sums.exponents, inexact=inexact)
        outcome = super().step(divisor)
        self._marks = [None] * len(self._named)
        return outcome

    def begin_exact_step(self, exponents: Mapping[str, int], count: int) -> None:
        """Begin a step whose sums do not depend on their order."""
        if self._sums is not None:
            self._sums.begin(exponents, count)

    def skip(self) -> StepOutcome:
        """Drop the gradients of a step in which nothing counted; change nothing."""
        self._marks = [None] * len(self._named)
        return super().skip()

    def _local_grads(self) -> list[torch.Tensor]:
        return [p.grad for _, p in self._named if p.grad is not None]

    def _squares(self, grads: list[torch.Tensor]) -> float:
        """Return the sum of squares; where it is exact, each rank squares a part of them."""
        if not self.options.exact:
            return super()._squares(grads)
        rank, size = self.ranks.rank, self.ranks.world_size
        part = [own_part(grad.reshape(-1), rank, size) for grad in grads]
        return self._exact_squares(grads, part)

    def fragments(self, *, weights_only: bool) -> list[Fragment]:
        """Return this rank's share of everything, balanced by bytes."""
        tensors = replicated_tensors(
            self.catalogue, self._model, self._optimizer, weights_only=weights_only
        )
        shares = striped(tensors, self.ranks.rank, self.ranks.world_size)
        return shares + self._buffer_fragments()

    def _weights_alike(self) -> Replicas:
        """Return the whole model."""
        return Replicas(list(self._model.named_parameters()))

    def load(self, source: TensorSource, saved: SavedState | None) -> None:
        """Read everything whole, in shares among the ranks of a node."""
        load_replicated(self.catalogue, self._model, self._optimizer, source, saved)
        load_buffers(self._model, self.catalogue, source)


class Single(Replicated):
    """Plain PyTorch on one rank."""

    name = "single"

    def _spread(self, model: nn.Module) -> nn.Module:
        if self.ranks.world_size != 1:
            raise ConfigError(
                f"strategy=single runs on one rank, and this run has {self.ranks.world_size}. "
                "Pass --nproc-per-node 1, or another --strategy such as ddp."
            )
        self._relay = Autocast(model, self.precision, self.ranks.device)
        return self._relay

    @property
    def _trouble_of_bypass(self) -> str | None:
        if not self.precision.is_mixed:
            return None
        return f"it would be computed in fp32 and not in {self.precision.name}"

    def _begin_micro_step(self, *, is_last: bool) -> None:
        """Nothing to announce."""
