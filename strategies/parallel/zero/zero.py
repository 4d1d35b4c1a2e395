"""DeepSpeed ZeRO stages 1 to 3 through deepspeed.initialize."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from ...collectives.agreed_gathers import agreed_gathers
from ...modifiers.unfreezing import Unfreezing
from ..build_options import BY_NAME
from ..calls.autocast import CastAround, forward_replaced
from ..calls.copies import AsBuilt
from ..calls.given_containers import containers_as_given
from ..calls.gradient_watch import ArrivalWatch, OwnBackwards
from ..calls.model_view import IN_SHARDS, Call, ModelCalls
from ..calls.stand_in import StandIn, refuse_values, stand_in_state_dicts, values_in_shards
from ..catalogue import catalogue_of
from ..gradients.adjoining import joined
from ..gradients.by_call import add_up_by_call
from ..gradients.grad_norm import combined_scale, sum_of_squares, sum_over_ranks
from ..matrix.choice import how_stepped, require_same_choice
from ..model.block_transforms import work_on_blocks
from ..model.build import Deferred, build_deferred, build_model, lay_out_in_rows
from ..model.same_model import refuse_unlike_models
from ..state.optimizer_extras import plain_attributes
from ..strategy import EMPTY_STEP, Blueprint, StepOutcome
from ..trial.owned import OwnedOrFlat
from ..trial.stepping import Flat, FlatEach, FlatInPieces
from ..trial.trial import Cut, Tried, made_after_trial, tried_optimizer
from .arrival_order import ArrivalOrder
from .carried import Carrier, gradients_of, in_one_step, owned_steps
from .exact_sums import ExactSums
from .frozen_parameters import FrozenParameters
from .internals import Stage3, Stage12, apply_step, is_held_whole, layout_of
from .kept_in_pieces import KeptInPieces
from .param_cohorts import Cohorts
from .start.broadcast import of_any_dimension
from .start.engine_config import SUB_GROUP_ELEMENTS, engine_config, import_deepspeed
from .start.known_step import require_known_step
from .start.masters import check_masters, restore_masters
from .start.materialize import cutter, fill, initial_values
from .start.refusals import refuse_model, require_as_asked
from .weights.used_outside import is_of_a_share, let_forward_ask_for_parameters, used_without_call
from .weights.watched_gathers import num_gathering, watch_gathers
from .weights.written import UNDONE, WrittenWeights


class Zero(KeptInPieces):
    """fp32 masters and optimizer state in shards; gradients too from stage 2, weights in stage 3.

    Loss scaling and clipping are not DeepSpeed's: its static loss scale is set, just before the
    step, to the number by which the summed gradients are to be divided.
    """

    _whole: frozenset[str] | None = None
    """Names of the parameters that are stepped whole; None: DeepSpeed steps all as it cuts them."""
    _cohorts: Cohorts | None = None
    _sums: ExactSums | None = None
    """None: DeepSpeed sums gradients."""
    _order: ArrivalOrder | None = None

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__(blueprint)
        deepspeed = import_deepspeed(self.name, self.ranks.device)
        require_known_step(
            deepspeed,
            self._config(),
            self.precision,
            self.ranks,
            device=self._step_device(),
            exact=self.options.exact,
        )
        deferred = build_deferred(blueprint) if self.options.init == BY_NAME else None
        model = build_model(blueprint) if deferred is None else deferred.model
        refuse_unlike_models(model, self.ranks)
        lay_out_in_rows(model)
        self.catalogue = catalogue_of(model)
        as_built = AsBuilt(model)
        refuse_model(model, self.precision, self.name, self.stage)
        work_on_blocks(model, self.options)
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._begins_later = bool(blueprint.unfreeze)
        tried = tried_optimizer(
            blueprint.optimizer, named, device=self._step_device(), cut=self._cut(named)
        )
        require_same_choice(tried.whole, self.ranks)
        self._whole = tried.whole
        optimizer = self._handed_to_deepspeed(blueprint, named, tried)
        initial = initial_values(model, deferred)
        with of_any_dimension(deepspeed):
            if deferred is not None:
                self._fill(deferred, optimizer, deepspeed)
            self._leaf_names = {id(p): n for n, p in model.named_parameters() if p.requires_grad}
            given = model.modules() if self.stage == 3 else ()
            with containers_as_given(given, engine_comes_first=False):
                self._engine, *_ = deepspeed.initialize(
                    model=model, optimizer=optimizer, config=self._config()
                )
        self._model = model
        self._module = CastAround(self._engine, self.precision)
        self._layout = layout_of(self._engine.optimizer, deepspeed.__version__)
        self._show_to_script(model, as_built)
        self._take_over_sums(optimizer, initial, deepspeed.__version__)
        self._frozen = FrozenParameters(self._layout, model, self.catalogue, initial)
        if self.precision.is_mixed:
            restore_masters(self._layout, initial)
        if isinstance(optimizer, Carrier):
            self._step_beside(optimizer, blueprint, tried)
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._watch_script(ArrivalWatch(trained, self.name, self._is_here))
        self._written = WrittenWeights(self._layout, model, self.catalogue.trainable, self.name)

    def _show_to_script(self, model: nn.Module, as_built: AsBuilt) -> None:
        """Have what the loop gets of the model go through the engine, and be whole or refused."""
        undone = {**UNDONE, **(IN_SHARDS if self.stage == 3 else {})}
        through = add_up_by_call(model, self._through) if self.options.exact else self._through
        self._calls = ModelCalls(
            model, through, refused=undone, shown=self._shown, as_built=as_built
        )
        self._calls.own_backwards = self._own_backwards = OwnBackwards(
            self.name, may_be_first=False
        )
        as_built.let_parameters_be_pickled(model, self._not_to_be_pickled)
        if isinstance(self._layout, Stage3):
            at_once = math.inf if self.options.exact else self._layout.sums_at_once
            let_forward_ask_for_parameters(model, at_once, self.name)
            stand_in_state_dicts(model, self._shown)
            if self.ranks.world_size > 1:
                self.gathers = agreed_gathers(self.ranks, self.name)
                watch_gathers(model, self.gathers)

    def _take_over_sums(
        self,
        optimizer: torch.optim.Optimizer,
        initial: Mapping[str, torch.Tensor],
        version: str,
    ) -> None:
        """Prove that DeepSpeed holds what it was given, and have gradients summed as is asked.

        Args:
            optimizer: that DeepSpeed was given.
            initial: by name, the parameters as they were built.
            version: DeepSpeed's.
        """
        if isinstance(self._layout, Stage12):
            self._layout.sum_in_fp32()
        check_masters(self._layout, initial, self.precision.compute_dtype, version)
        offload = self.options.offload
        require_as_asked(
            self._layout, optimizer, strategy=self.name, offload=offload, version=version
        )
        if self.options.exact:
            trained = self.catalogue.trainable
            self._sums = ExactSums(
                self._engine.optimizer, self._layout, trained, self.ranks, version=version
            )
        elif self.stage == 2:
            in_order = [p for p in self._engine.module.parameters() if p.requires_grad]
            self._order = ArrivalOrder(self._engine.optimizer, in_order)

    def _handed_to_deepspeed(
        self, blueprint: Blueprint, named: list[tuple[str, nn.Parameter]], tried: Tried
    ) -> torch.optim.Optimizer:
        """Return the user's optimizer, or what carries its steps of whole parameters."""
        if tried.whole is not None:
            return Carrier(parameter for _, parameter in named)
        optimizer, self._group_names = made_after_trial(blueprint.optimizer, named, tried)
        split = Unfreezing(blueprint.unfreeze, self.catalogue.trainable, self.catalogue.frozen)
        self._cohorts = Cohorts(optimizer, self._group_names, split)
        self._optimizer = optimizer
        self._as_built = plain_attributes(optimizer)
        return optimizer

    def _step_beside(self, carrier: Carrier, blueprint: Blueprint, tried: Tried) -> None:
        """Make the user's optimizer of what DeepSpeed's flat buffer holds. Called on every rank."""
        assert tried.whole is not None
        specs = self.catalogue.trainable
        self._owned_steps = owned = owned_steps(
            self._layout, specs, tried.whole, self.ranks, device=self._step_device()
        )
        with owned.gathered():
            self._optimizer, self._group_names = made_after_trial(
                blueprint.optimizer, list(owned.stand_ins.items()), tried
            )
        owned.forget_others(self._optimizer)
        self._as_built = plain_attributes(self._optimizer)
        self.notes = (how_stepped(self.optimizer_name, len(tried.whole), len(specs)),)

        def carry() -> None:
            names = [name for name in specs if name not in self.held_back]
            grads = gradients_of(self._layout, names, self._step_device())
            with self._telling_of_the_first_step():
                owned.step(self._optimizer.step, grads)

        carrier.carry = carry

    def _step_device(self) -> torch.device:
        return torch.device("cpu") if self.options.offload else self.ranks.device

    def _cut(self, named: Sequence[tuple[str, nn.Parameter]]) -> Cut:
        """Return how DeepSpeed cuts and steps the groups."""
        rank: type[Flat] = Flat
        if self.stage == 3:
            numel = sum(parameter.numel() for _, parameter in named)
            rank = FlatInPieces if self._begins_later or numel > SUB_GROUP_ELEMENTS else FlatEach
        return Cut(strategy=self.name, rank=rank, owned=OwnedOrFlat)

    def _fill(self, deferred: Deferred, optimizer: torch.optim.Optimizer, deepspeed: Any) -> None:
        """Give a model without memory its values, whole up to stage 2, in shards under stage 3."""
        fill(
            deferred,
            optimizer,
            device=self.ranks.device,
            dtype=self.precision.compute_dtype if self.precision.is_mixed else None,
            cut=cutter(deepspeed.zero.Init, self._config()) if self.stage == 3 else None,
        )

    def _config(self) -> dict[str, Any]:
        config = engine_config(
            stage=self.stage,
            precision=self.precision.name,
            device_type=self.ranks.device.type,
            offload=self.options.offload,
            exact=self.options.exact,
        )
        if self._whole is None:
            return config
        return in_one_step(config, sum(spec.numel for spec in self.catalogue.trainable.values()))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The user's groups, however DeepSpeed's optimizer has them split."""
        return self._optimizer.param_groups if self._cohorts is None else self._cohorts.groups

    def _through(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not call.enclosing:
            return self._module(*args, **kwargs)
        with forward_replaced(self._model, call.function):
            return self._module(*args, **kwargs)

    def _shown(self, parameter: nn.Parameter) -> nn.Parameter:
        """Return what the loop gets of a parameter of the model's."""
        if self._is_here(parameter):
            return parameter
        shape = cast(Any, parameter).ds_shape
        refuse = partial(refuse_values, self._model, parameter, self.name)
        watch = self.gradient_watch
        gradient = None if watch is None else partial(watch.gradient_of, parameter, shape)
        return StandIn(parameter, shape, refuse, gradient)

    def _not_to_be_pickled(self, parameter: nn.Parameter) -> str | None:
        """Return why a parameter cannot be pickled; None: it can."""
        if self._is_here(parameter):
            return None
        return values_in_shards(self._model, parameter, self.name)

    def _is_here(self, parameter: torch.Tensor) -> bool:
        """Return whether this rank has all of a parameter between two calls of the model."""
        return self.stage < 3 or is_held_whole(parameter)

    @property
    def _trouble_of_bypass(self) -> str | None:
        return "its gradients would not be added up by DeepSpeed's engine"

    def _begin_micro_step(self, *, is_last: bool) -> None:
        """Tell the engine whether this forward and backward is the last of the step."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        if self._order is not None:
            self._order.begin()

    def _leaves(self) -> Mapping[int, str]:
        return self._leaf_names

    def _accumulate(self, loss: torch.Tensor) -> None:
        self.gathers.end_batch(partial(num_gathering, loss))
        try:
            with self._own_backwards.engines():
                self._engine.backward(loss, scale_wrt_gas=False)
        except RuntimeError as error:
            if self.stage < 3 or not is_of_a_share(error):
                raise
            raise used_without_call(self.name, str(error)) from error
        if self._sums is not None:
            self._sums.finish()

    def begin_exact_step(self, exponents: Mapping[str, int], count: int) -> None:
        """Begin a step whose sums do not depend on their order."""
        if self._sums is not None:
            self._sums.begin(exponents, count)

    def step(self, divisor: float) -> StepOutcome:
        """Divide, clip and update, unless a gradient is not finite. Called on every rank."""
        if self._written is not None:
            self._written.require_none()
        inexact: tuple[str, ...] = ()
        if self._sums is None:
            divisor /= self._layout.divides_by
        else:
            self._sums.ask()
            self._sums.put()
            inexact = self._sums.agree()
        squares = self._squares(joined(self._gradients(divisor)))
        scale, grad_norm, finite = combined_scale(squares, divisor, self.max_grad_norm)
        self._take_step(scale, finite=finite, grad_norm=grad_norm)
        if finite and self.ema is not None:
            self.ema.update(self._optimizer, self._stepped())
        if self._owned_steps is not None:
            self._owned_steps.release()
        exponents = {} if self._sums is None else self._sums.exponents
        outcome = StepOutcome(
            grad_norm=grad_norm, applied=finite, exponents=exponents, inexact=inexact
        )
        self._require_savable(outcome)
        return outcome

    def _squares(self, grads: list[torch.Tensor]) -> float:
        """Return the sum of squares of the gradient of all ranks, the same on each."""
        if self._sums is not None:
            return self._sums.squares(grads, self.meanwhile)
        own = sum_of_squares(grads, self.ranks.device)
        return sum_over_ranks(own, self.ranks, self.meanwhile)

    def _stepped(self) -> Iterable[torch.Tensor]:
        """Return what the optimizer has just updated, as it knows it."""
        if self._owned_steps is not None:
            return self._owned_steps.stepped()
        trained = (p for p in self._layout.pieces() if p.fqn not in self.held_back)
        return {id(p.buffer): p.buffer for p in trained}.values()

    def skip(self) -> StepOutcome:
        """Drop the gradients of a step in which nothing counted; change nothing. On every rank."""
        if self._sums is not None:
            self._sums.put()
        for _, grad in self._layout.gradients():
            # The one reason for which DeepSpeed leaves a step out and clears what it has summed.
            grad.fill_(math.nan)
        self._take_step(1.0, finite=False, grad_norm=math.nan)
        return EMPTY_STEP

    def _take_step(self, scale: float, *, finite: bool, grad_norm: float) -> None:
        """Have DeepSpeed divide by `scale` and update, or leave the step out."""
        if self._cohorts is not None:
            self._cohorts.follow()
        apply_step(self._engine, self._layout, scale, is_finite=finite, grad_norm=grad_norm)
        if self._written is not None:
            self._written.accept()

    def _gradients(self, divisor: float) -> list[torch.Tensor]:
        """Return this rank's share of the gradients of what is trained, with the penalty's."""
        found, penalised = [], []
        for piece, grad in self._layout.gradients():
            if piece.fqn in self.held_back:
                # So that DeepSpeed finds nothing in it for which it would skip the step.
                grad.zero_()
                continue
            if self.penalty is not None and self.penalty.covers(piece.fqn):
                weight = piece.of(piece.buffer).view(grad.shape)
                penalised.append((grad, weight))
            found.append(grad)
        if self.penalty is not None:
            self.penalty.add_gradients(penalised, divisor)
        return found

    def hold_back(self, names: frozenset[str]) -> None:
        """Leave these trainable parameters alone from now on: no update, no share in the norm.

        Raises:
            ConfigError: some of the parameters that are stepped as one flat buffer.
        """
        if self._cohorts is not None:
            self._cohorts.hold(names)
        super().hold_back(names)


class Zero1(Zero):
    """Optimizer state in shards."""

    name = "zero1"
    stage = 1


class Zero2(Zero):
    """Optimizer state and gradients in shards."""

    name = "zero2"
    stage = 2


class Zero3(Zero):
    """Optimizer state, gradients and weights in shards."""

    name = "zero3"
    forward_communicates = True
    stage = 3
