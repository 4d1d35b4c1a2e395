"""What single, ddp and fsdp share: the user's own torch optimizer steps on `.grad`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar
from weakref import ref

import torch
from torch import nn

from checkpointing import Fragment

from ...modifiers.ema import local_part
from ..calls.copies import AsBuilt
from ..calls.gradient_watch import GradientWatch
from ..calls.model_view import ModelCalls
from ..catalogue import Catalogue, catalogue_of, persistent_buffers
from ..gradients import squares
from ..gradients.adjoining import joined
from ..gradients.by_call import add_up_by_call
from ..gradients.grad_norm import combined_scale, number_of, sum_of_squares
from ..matrix.choice import require_same_choice
from ..model.block_transforms import work_on_blocks
from ..model.build import Deferred, build_model
from ..model.same_model import refuse_unlike_models
from ..state.optimizer_extras import plain_attributes
from ..state.optimizer_state import copy_flat, kept_state, whole
from ..state.saved_state import Scalars, TensorSource
from ..strategy import EMPTY_STEP, Blueprint, StepOutcome, Strategy
from ..trial.trial import Cut, made_after_trial, tried_optimizer


class TorchEngine(Strategy):
    """A strategy whose parameters are its fp32 masters and whose optimizer is torch's own."""

    _undone: ClassVar[Mapping[str, str]] = {}
    """What the model's methods cannot do, and why."""

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__(blueprint)
        deferred = self._deferred(blueprint)
        self._model = build_model(blueprint) if deferred is None else deferred.model
        refuse_unlike_models(self._model, self.ranks)
        self.catalogue: Catalogue = catalogue_of(self._model)
        as_built = AsBuilt(self._model)
        built = [(name, ref(p)) for name, p in self._model.named_parameters()]
        work_on_blocks(self._model, self.options)
        self._module = self._spread(self._model)
        exact = self.options.exact
        through = add_up_by_call(self._model, self._through) if exact else self._through
        self._calls = ModelCalls(self._model, through, refused=self._undone, as_built=as_built)
        if deferred is not None:
            self._fill(deferred)
        self._named = [(name, p) for name, p in self._owned() if p.requires_grad]
        self._num_elements = sum(p.numel() for _, p in self._named)
        self._leaf_names = {id(p): name for name, p in self._named}
        former = {id(p): name for name, of in built if (p := of()) is not None}
        tried = tried_optimizer(
            blueprint.optimizer, self._named, device=self._step_device(), cut=self._cut()
        )
        if tried.cut is not None:
            require_same_choice(tried.whole, self.ranks)
        with self._stepped_as(tried.whole) as named:
            self._optimizer, self._group_names = made_after_trial(
                blueprint.optimizer, named, tried, former=former
            )
        self._as_built = plain_attributes(self._optimizer)
        self._watch_script(GradientWatch(self._named, self.name))

    def live_weights(self) -> Sequence[tuple[str, torch.Tensor]]:
        """Return the masters, which are what is computed with."""
        return self._named

    def _deferred(self, blueprint: Blueprint) -> Deferred | None:
        """Return the model without memory where it can be spread before it is filled."""
        return None

    def _fill(self, deferred: Deferred) -> None:
        """Give a model that was spread without memory its values."""
        raise AssertionError("only what `_deferred` has built is filled")

    def _cut(self) -> Cut | None:
        """Return how what the optimizer steps is cut; None: not at all."""
        return None

    @contextmanager
    def _stepped_as(self, whole: frozenset[str] | None) -> Iterator[list[tuple[str, nn.Parameter]]]:
        """Give what the optimizer is made of, with its values. Called on every rank.

        Args:
            whole: names of what is to be stepped whole by one rank; None: all is stepped as it is.
        """
        assert whole is None, "only what cuts parameters has owners for them"
        yield self._named

    def _step_device(self) -> torch.device:
        """Return where the optimizer's parameters are."""
        return torch.device("cpu") if self.options.offload else self.ranks.device

    def _owned(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Return, by name, what stands for each parameter in the optimizer and in checkpoints."""
        return self._model.named_parameters()

    @abstractmethod
    def _spread(self, model: nn.Module) -> nn.Module:
        """Shard or wrap the model; return what is called in its place."""

    @abstractmethod
    def _local_grads(self) -> list[torch.Tensor]:
        """Return this rank's share of the gradient, each element once over `_norm_group`."""

    def _leaves(self) -> Mapping[int, str]:
        return self._leaf_names

    def _accumulate(self, loss: torch.Tensor) -> None:
        # What averages over the ranks is undone in `step`: a loss scaled by their number, where
        # that is no power of two, would be rounded otherwise in low precision.
        torch.autograd.backward(loss)

    @property
    def _averaged_over(self) -> int:
        """By how much the engine has divided the sum of all ranks' gradients."""
        return 1 if self.options.exact else self.ranks.world_size

    def step(self, divisor: float) -> StepOutcome:
        """Divide, clip and update, unless a gradient is not finite. Called on every rank."""
        divisor /= self._averaged_over
        for name, parameter in self._named:
            if name in self.held_back:
                # Without a gradient torch's optimizers leave a parameter and its state alone.
                parameter.grad = None
        trained = [(name, p) for name, p in self._named if p.grad is not None]
        grads = self._local_grads()
        if self.penalty is not None:
            covered = [
                (grad, local_part(parameter))
                for (name, parameter), grad in zip(trained, grads, strict=True)
                if self.penalty.covers(name)
            ]
            self.penalty.add_gradients(covered, divisor)
        outcome = self._apply(grads, divisor)
        self._require_savable(outcome)
        if outcome.applied and self.ema is not None:
            self.ema.update(self._optimizer, self._stepped(trained))
        self._forget_gradients()
        return outcome

    def skip(self) -> StepOutcome:
        """Drop the gradients of a step in which nothing counted; change nothing. On every rank."""
        self._forget_gradients()
        return EMPTY_STEP

    def _update(self) -> None:
        """Step the optimizer with the gradients as they are. Called on every rank."""
        self._optimizer.step()

    def _stepped(self, trained: Sequence[tuple[str, nn.Parameter]]) -> Iterable[torch.Tensor]:
        """Return what the optimizer has just updated of these, as it knows it."""
        return (parameter for _, parameter in trained)

    def _forget_gradients(self) -> None:
        """Drop the gradients of a step."""
        self._optimizer.zero_grad(set_to_none=True)

    def _apply(self, grads: list[torch.Tensor], divisor: float) -> StepOutcome:
        """Divide, clip and update; the gradients are dropped afterwards."""
        grads = joined(grads)
        scale, grad_norm, finite = combined_scale(self._squares(grads), divisor, self.max_grad_norm)
        if finite:
            torch._foreach_mul_(grads, 1.0 / scale)
            with self._telling_of_the_first_step():
                self._update()
        return StepOutcome(grad_norm=grad_norm, applied=finite)

    def _squares(self, grads: list[torch.Tensor]) -> float:
        """Return the sum of squares of the gradient of all ranks, the same on each."""
        return number_of(sum_of_squares(grads, self.ranks.device), self.meanwhile)

    def _exact_squares(self, grads: Sequence[torch.Tensor], parts: Sequence[torch.Tensor]) -> float:
        """Return the sum of squares, the same bits under every strategy. Called on every rank.

        Args:
            grads: what this rank holds.
            parts: of that what this rank squares, flat; the other ranks square the rest.
        """
        if self.ranks.device.type != "cpu":
            return squares.sum_of_squares_on_device(
                parts, self.ranks, count=self._num_elements, meanwhile=self.meanwhile
            )
        # Without neighbours a pass over all of it takes less time than a message.
        looks_at_all = self.holds_whole and self.ranks.neighbours is None
        looked_at = grads if looks_at_all else parts
        largest = squares.largest_magnitude(looked_at, self.ranks, is_spread=not looks_at_all)
        return squares.sum_of_squares(parts, largest, self.ranks, count=self._num_elements)

    def scalars(self) -> Scalars:
        """Return the optimizer's state of every parameter, besides tensors of its shape."""
        states = {
            name: kept_state(self._optimizer, p, name, whole=self.holds_whole).values
            for name, p in self._named
        }
        return {name: state for name, state in states.items() if state}

    def refresh(self) -> None:
        """Nothing to do: the computing weights are the masters."""

    def _buffer_fragments(self) -> list[Fragment]:
        # Replicas of a buffer may differ where a model keeps its own; the coordinator's are kept.
        if not self.ranks.is_coordinator:
            return []
        buffers = persistent_buffers(self._model)
        return [
            whole(spec, buffers[name])
            for name, spec in self.catalogue.buffers.items()
            if spec.numel
        ]


def load_buffers(model: nn.Module, catalogue: Catalogue, source: TensorSource) -> None:
    """Overwrite the persistent buffers, whole on every rank. Called on every rank."""
    buffers = persistent_buffers(model)
    for name, spec in catalogue.buffers.items():
        copy_flat(buffers[name], source.read_whole(name, spec.key, spec.numel))
