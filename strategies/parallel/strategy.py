"""What a strategy is: about a dozen verbs between a training loop and a native engine."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import nn

from checkpointing import JSON, Fragment, TensorSpec

from ..collectives.agreed_gathers import NOTHING_GATHERED, AgreedGathers
from ..collectives.process_group import Ranks
from ..collectives.replicas import Replicas
from ..errors import ConfigError, first_line
from ..modifiers.ema import EMA, drop_average
from ..modifiers.penalty import Penalty
from ..precision import Precision
from .build_options import BuildOptions
from .calls.bypass import bypassed
from .calls.gradient_watch import GradientWatch
from .calls.model_view import Call, ModelCalls
from .calls.remade import PartsAsBuilt
from .calls.switched import SwitchedParameters
from .calls.unused_parameters import refuse_untouched
from .catalogue import Catalogue
from .gradients.bucket_order import BucketOrder
from .state.implementation import library_of
from .state.optimizer_extras import extras_of, put_back_extras
from .state.saved_state import SavedState, Scalars, TensorSource
from .state.small_tensors import copied_together


class Parameters(Sequence[nn.Parameter]):
    """The trainable parameters handed to the user's optimizer factory, in model order.

    Iterates like `model.parameters()`; `named()` gives the names, for parameter groups.
    """

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]]) -> None:
        self._named = list(named)
        self._parameters = [parameter for _, parameter in self._named]

    def named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield (name, parameter) pairs."""
        return iter(self._named)

    def __getitem__(self, index: Any) -> Any:
        return self._parameters[index]

    def __len__(self) -> int:
        return len(self._named)


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """Everything a strategy is built from."""

    model: Callable[[], nn.Module]
    """Builds the model; called once, under the run's seed."""
    optimizer: Callable[[Parameters], torch.optim.Optimizer]
    """Builds the optimizer over parameters that may be sharded already."""
    precision: Precision
    max_grad_norm: float | None
    """Clip the global gradient norm to this; None: no clipping."""
    seed: int
    ranks: Ranks
    options: BuildOptions = field(default_factory=BuildOptions)
    penalty: Penalty | None = None
    ema: EMA | None = None
    unfreeze: Mapping[str, int] = field(default_factory=dict)
    """Patterns of parameters with the optimizer step at which they begin to be trained."""
    accelerator: Any = None
    """The user's own `accelerate.Accelerator`, for strategy=accelerate."""


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What one optimizer step did; the same on every rank."""

    grad_norm: float
    """Norm of the mean gradient over all parameters, before clipping; may be inf or nan."""
    applied: bool
    """False: the gradients were not finite, or nothing counted, and nothing was changed."""
    is_empty: bool = False
    """Nothing counted in the step on any rank: there was no gradient to apply."""
    exponents: Mapping[str, int] = field(default_factory=dict)
    """With exact sums: of each parameter's gradients, for the step that follows."""
    inexact: tuple[str, ...] = ()
    """With exact sums: parameters whose sum may depend on its order after all."""


EMPTY_STEP = StepOutcome(grad_norm=math.nan, applied=False, is_empty=True)


class Strategy(ABC):
    """A model spread over the ranks by one native engine."""

    name: ClassVar[str]
    forward_communicates: ClassVar[bool] = False
    """Whether the ranks gather parameters in a forward."""
    holds_whole: ClassVar[bool] = False
    """Whether every rank steps every parameter whole."""
    catalogue: Catalogue
    bucket_orders: Sequence[BucketOrder] = ()
    """Of what sums gradients in an order that a resume must find again."""
    _calls: ModelCalls
    _optimizer: torch.optim.Optimizer
    _group_names: list[list[str]]
    _as_built: dict[str, JSON]
    _is_known_savable = False
    _switched: SwitchedParameters
    _parts: PartsAsBuilt
    _model: nn.Module
    _buffers_apart: Collection[str] | None = None
    gathers: AgreedGathers = NOTHING_GATHERED
    """Told of each batch for which the model is called."""
    gradient_watch: GradientWatch | None = None
    """Sees gradients that the script changes by itself; None: nothing does."""
    notes: Sequence[str] = ()
    """What the start of a run should say of how it is done."""

    def __init__(self, blueprint: Blueprint) -> None:
        """Build and verify. Called on every rank.

        Raises:
            ConfigError: the model, the optimizer or the number of ranks does not suit.
        """
        self.ranks = blueprint.ranks
        self.precision = blueprint.precision
        self.max_grad_norm = blueprint.max_grad_norm
        self.penalty = blueprint.penalty
        self.ema = blueprint.ema
        self.held_back: frozenset[str] = frozenset()
        self.options = blueprint.options
        self.meanwhile: Callable[[], None] | None = None
        """Called in `step` while the device computes the norm, where the host only waits for it;
        it is not called under every strategy, nor in exact steps."""
        self.options.require(self.name, self.ranks.device.type)

    @property
    def module(self) -> nn.Module:
        """What the training loop holds: the user's model, called through the engine."""
        return self._calls.view

    @abstractmethod
    def _through(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Carry out a call of the model inside the engine's forward."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """Tell that all ranks do the same within, such as an evaluation."""
        self._calls.are_together = True
        try:
            yield
        finally:
            self._calls.are_together = False

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """Return every optimizer that steps: the user's one."""
        return (self._optimizer,)

    def live_weights(self) -> Sequence[tuple[str, torch.Tensor]]:
        """Return the trained weights of this rank that a script may write to unseen."""
        return ()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's live parameter groups."""
        return self._optimizer.param_groups

    @property
    def group_names(self) -> list[list[str]]:
        """Names of the parameters of each group."""
        return self._group_names

    @property
    def optimizer_name(self) -> str:
        """Class name of the user's optimizer."""
        return type(self._optimizer).__name__

    def _watch_script(self, watch: GradientWatch) -> None:
        """Look at what the loop does with gradients, what requires them, and the model's parts.

        A forward does not meet what stands in for gradients.
        """
        self.gradient_watch = watch
        self._calls.before_call = watch.withdraw
        self._switched = SwitchedParameters(self._model.named_parameters())
        self._parts = PartsAsBuilt(self._model)

    def _gathered(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Return what is in the place of trained parameters while they are whole on each rank."""
        return ()

    @abstractmethod
    def begin_exact_step(self, exponents: Mapping[str, int], count: int) -> None:
        """Begin a step whose sums do not depend on their order; nothing where that is not asked.

        Args:
            exponents: `StepOutcome.exponents` of the step before; {}: there was none.
            count: micro-batches of the step, over all ranks.
        """

    @property
    def optimizer_library(self) -> str | None:
        """Installed package that it comes from; None: the script's own."""
        return library_of(type(self._optimizer))

    def micro_step(self, *, is_last: bool) -> None:
        """Announce a forward and backward; gradients are summed over the ranks at the last."""
        self._calls.has_passed, self._calls.are_together = False, True
        self.gathers.begin_batch()
        self._begin_micro_step(is_last=is_last)

    @abstractmethod
    def _begin_micro_step(self, *, is_last: bool) -> None:
        """Tell the engine."""

    def backward(self, loss: torch.Tensor, *, where: str = "backward") -> None:
        """Accumulate the gradient of `loss`, a plain sum over samples (0-dim). On every rank.

        Args:
            loss: on this rank; what its graph hangs on is freed.
            where: begins the sentence of a refusal.

        Raises:
            ConfigError: no call of the model went through the engine since `micro_step`; with
                several ranks, naming the trainable parameters that the loss leaves out here.
        """
        self._refuse_unlike_losses(where)
        if self.ranks.world_size > 1 or self.options.exact:
            # With exact sums on one rank too: the run may go on with several.
            refuse_untouched(loss, self._leaves(), where=where)
        self._accumulate(loss)

    def _refuse_unlike_losses(self, where: str) -> None:
        """Refuse a loss that would train something else under this strategy. No collective.

        Raises:
            ConfigError: the engine has seen nothing of it, or parameters were switched or parts
                removed.
        """
        self._parts.require_all(where)
        self._refuse_bypassed(where)
        may_freeze = self.holds_whole and (self.ranks.world_size == 1 or self.options.exact)
        self._switched.require_none(where, may_freeze=may_freeze, gathered=self._gathered())

    def _refuse_bypassed(self, where: str) -> None:
        """Refuse a loss of which the engine has seen nothing. No collective.

        One call is enough: what is called beside it hangs on the same parameters, whose gradients
        the engine then waits for.

        Raises:
            ConfigError: saying what to call.
        """
        self._calls.are_together = False
        trouble = self._trouble_of_bypass
        if trouble is not None and not self._calls.has_passed:
            raise ConfigError(f"{where}: {bypassed(self.name, trouble)}")

    @property
    def has_seen_loss(self) -> bool:
        """Whether a call of the model has gone through the engine since `micro_step`."""
        return self._calls.has_passed

    @property
    @abstractmethod
    def _trouble_of_bypass(self) -> str | None:
        """What goes wrong with a loss of which the engine has seen nothing; None: nothing."""

    @abstractmethod
    def _leaves(self) -> Mapping[int, str]:
        """Return, by id(), the names of the tensors whose gradients a backward now leaves."""

    @abstractmethod
    def _accumulate(self, loss: torch.Tensor) -> None:
        """Do the engine's backward."""

    @abstractmethod
    def step(self, divisor: float) -> StepOutcome:
        """Divide the summed gradient by `divisor`, clip, and update. Called on every rank."""

    @abstractmethod
    def skip(self) -> StepOutcome:
        """Drop the gradients of a step in which nothing counted; change nothing. On every rank."""

    def forget_average(self) -> None:
        """Drop what a checkpoint brought of an average that is not asked for. No collective."""
        drop_average(self._optimizer)

    def hold_back(self, names: frozenset[str]) -> None:
        """Leave these trainable parameters alone from now on: no update, no share in the norm.

        Raises:
            ConfigError: the engine cannot.
        """
        self.held_back = names

    @abstractmethod
    def fragments(self, *, weights_only: bool) -> list[Fragment]:
        """Return live views of this rank's share of the state. No collective."""

    @abstractmethod
    def scalars(self) -> Scalars:
        """Return the rest of the optimizer's state of what this rank holds. No collective."""

    @contextmanager
    def _telling_of_the_first_step(self) -> Iterator[None]:
        """Refuse an optimizer whose first step fails; around that step alone. No collective.

        Raises:
            ConfigError: it does, in what its trial does not carry out, such as compiled code.
        """
        try:
            yield
        except Exception as error:
            if self._is_known_savable:
                raise
            raise ConfigError(
                f"the first step of {self.optimizer_name} failed under strategy={self.name}: "
                f"{first_line(error)}. Nothing is lost: use --strategy ddp (single on one rank), "
                "or another optimizer."
            ) from error

    def _require_savable(self, outcome: StepOutcome) -> None:
        """Look, after the first step, whether all that it made can be saved. No collective.

        Raises:
            ConfigError: something has no place in a checkpoint, before hours are lost with it.
        """
        if outcome.applied and not self._is_known_savable:
            with copied_together(self.optimizers):
                self.scalars()
                self.extras()
            self._is_known_savable = True

    def extras(self) -> dict[str, JSON]:
        """Return what the optimizer keeps beside its groups and its parameters' state."""
        return extras_of(self._optimizer, self._as_built)

    def put_back_extras(self, saved: Mapping[str, Any]) -> None:
        """Put back what `extras` returned when the checkpoint was made. No collective."""
        put_back_extras(self._optimizer, self._as_built, saved)

    @abstractmethod
    def load(self, source: TensorSource, saved: SavedState | None) -> None:
        """Overwrite this rank's share of the state. Called on every rank; `refresh` must follow.

        Args:
            source: where to read.
            saved: the optimizer's state; None: weights only.

        Raises:
            ConfigError: state that this strategy cannot hold.
        """

    @abstractmethod
    def refresh(self) -> None:
        """Make the computing weights follow the loaded masters. Called on every rank."""

    def compare_buffers(self, besides: Collection[str]) -> None:
        """Have `replicas` hold the persistent buffers too. On every rank, with the same names.

        Args:
            besides: those that each rank's forward moves in its own way.
        """
        self._buffers_apart = besides

    def replicas(self) -> Replicas:
        """Return the weights and buffers that other ranks hold too. No collective."""
        if self.ranks.world_size == 1:
            return Replicas()
        return replace(self._weights_alike(), buffers=self._buffers_alike)

    def _weights_alike(self) -> Replicas:
        """Return the weights that other ranks hold too. No collective."""
        return Replicas()

    def _buffers_alike(self) -> list[tuple[str, torch.Tensor | None]]:
        """Return the buffers that are the same on all ranks, where that is known. No collective."""
        if self._buffers_apart is None:
            return []
        places = {name: name.rpartition(".") for name in self.catalogue.buffers}
        return [
            (name, self._model.get_submodule(module)._buffers.get(key))
            for name, (module, _, key) in places.items()
            if name not in self._buffers_apart
        ]

    def weight_specs(self) -> list[TensorSpec]:
        """Return the tensors that every checkpoint of this model must hold."""
        return self.catalogue.weight_specs()
