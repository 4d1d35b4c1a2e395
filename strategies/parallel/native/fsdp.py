"""torch's fully_shard: parameters, gradients and optimizer state in shards of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard

from checkpointing import Fragment, TensorSpec

from ...collectives.agreed_gathers import AgreedGathers, agreed_gathers
from ...collectives.replicas import Replicas
from ...errors import ConfigError
from ...torch_internals import fsdp_parameters, unsharded
from ..build_options import BY_NAME
from ..calls.bypass import IN_PLACE, REMEDY
from ..calls.gradient_watch import OwnBackwards
from ..calls.model_view import IN_SHARDS, Call
from ..calls.pickled_shards import refuse_pickled_shards
from ..calls.used_outside import UsedOutside
from ..gradients.grad_norm import sum_of_squares, sum_over_ranks
from ..gradients.gradient_sums import GradientSums
from ..gradients.sharded_sums import ShardedSums
from ..matrix.choice import how_stepped
from ..matrix.kept import kept_fragments, kept_values, load_kept
from ..matrix.owned_steps import Held, OwnedSteps, Share
from ..model.build import Deferred, build_deferred, lay_out_in_rows
from ..model.factory_checks import refuse_empty
from ..state.optimizer_state import (
    copy_flat,
    create_state,
    flat,
    fragment_of,
    kept_state,
    state_spec,
)
from ..state.saved_state import SavedState, Scalars, TensorSource
from ..strategy import Blueprint, StepOutcome
from ..trial.owned import OwnedOrRows
from ..trial.sharded import Sharded
from ..trial.stepping import Rows
from ..trial.trial import Cut
from .engine import TorchEngine, load_buffers
from .rows import blocks_to_shard, mesh_of, ring_of, shard_range
from .scalar_parameters import ScalarParameters
from .shard_writes import GatheredWeights, refuse_gradient_hooks
from .sharding import CALL, require_sharded, shard_model


class FSDP(TorchEngine):
    """Sharded by block: the repeated modules each, and the rest with the root."""

    name = "fsdp"
    forward_communicates = True
    _undone: ClassVar[Mapping[str, str]] = IN_SHARDS
    _found: Sequence[tuple[str, Any]] = ()
    _owned_steps: OwnedSteps | None = None

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__(blueprint)
        GatheredWeights(self._model, is_compiled=self.options.compile_blocks is not False)
        self._calls.own_backwards = OwnBackwards(self.name, may_be_first=True)
        self._sums: ShardedSums | None = None
        self._scalar_sums: GradientSums | None = None
        if self.options.exact:
            shards = [(name, p) for name, p in self._named if p.ndim]
            scalars = [(name, p) for name, p in self._scalars.named if p.requires_grad]
            self._sums = ShardedSums(self._model.modules(), shards, self.ranks)
            self._scalar_sums = GradientSums(scalars, self.ranks)

    def _spread(self, model: nn.Module) -> nn.Module:
        self._mesh = mesh = mesh_of(self.ranks, self.options)
        self._replicas = mesh.size(0) if mesh.ndim == 2 else 1
        self._shards_of_row = mesh.size(-1)
        self._placements = (Replicate(), Shard(0)) if mesh.ndim == 2 else (Shard(0),)
        self.blocks = blocks_to_shard(model, self.options.shard_blocks)
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        refuse_empty(trained, self.name)
        refuse_gradient_hooks(model.named_parameters())
        lay_out_in_rows(model)
        shard_model(model, self.blocks, mesh=mesh, precision=self.precision, options=self.options)
        require_sharded(model, self.blocks, self._placements)
        if self.ranks.world_size > 1 and self.blocks and not self.options.compile_blocks:
            # Not what dynamo would trace.
            self.gathers = agreed_gathers(self.ranks, self.name)
            for name in self.blocks:
                hook = partial(_take_turn, self.gathers, f"calls {name}")
                model.get_submodule(name).register_forward_pre_hook(hook, prepend=True)
        UsedOutside(model, self.gathers)
        refuse_pickled_shards(self.name)
        return model

    def _cut(self) -> Cut:
        def here(factory: Any, likeness: Any) -> Sharded:
            return Sharded(factory, likeness, self._mesh, self._placements)

        return Cut(strategy=self.name, rank=Rows, here=here, owned=OwnedOrRows)

    @contextmanager
    def _stepped_as(self, whole: frozenset[str] | None) -> Iterator[list[tuple[str, nn.Parameter]]]:
        if whole is None:
            yield self._named
            return
        self._owned_steps = owned = OwnedSteps(
            [self._share_of(name, parameter) for name, parameter in self._named],
            whole,
            ring_of(self._mesh, self.ranks.rank),
            self.ranks,
            device=self._step_device(),
        )
        with owned.gathered():
            yield list(owned.stand_ins.items())
        owned.forget_others(self._optimizer)
        self.notes = (how_stepped(self.optimizer_name, len(whole), len(self._named)),)

    def _share_of(self, name: str, parameter: nn.Parameter) -> Share:
        start, end = shard_range(parameter)
        shape = tuple(parameter.shape)
        return Share(
            name=name, shape=shape, start=start, end=end, weight=partial(_local, parameter)
        )

    def _deferred(self, blueprint: Blueprint) -> Deferred | None:
        return build_deferred(blueprint) if self.options.init == BY_NAME else None

    def _fill(self, deferred: Deferred) -> None:
        """Fill the shards, with one whole parameter at a time in memory."""
        device = torch.device("cpu") if self.options.offload else self.ranks.device
        self._model.to_empty(device=device)
        # What has no memory is moved module by module, which takes ties apart.
        deferred.tie()
        for name, parameter in list(self._model.named_parameters()):
            if parameter.ndim == 0:
                deferred.fill(name, self.ranks.device)
                continue
            start, end = shard_range(parameter)
            copy_flat(_local(parameter), deferred.value(name).reshape(-1)[start:end])
        deferred.fill_buffers(self.ranks.device)

    def _owned(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Return shards, and what stands for parameters that have none."""
        self._scalars = ScalarParameters(self._model, self._mesh)
        parameters = dict(self._model.named_parameters()) | self._scalars.owners
        self._parameters = list(parameters.items())
        return self._parameters

    def _through(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.gathers.call()
        function = call.function
        for module in reversed(call.enclosing):
            if isinstance(module, FSDPModule):
                function = partial(getattr(module, CALL), function)
        result = function(*args, **kwargs)
        self.gathers.returned()
        return result

    @property
    def _trouble_of_bypass(self) -> str | None:
        """None: the module has the engine's hooks; a part alone ends in torch's error."""
        return None

    def _begin_micro_step(self, *, is_last: bool) -> None:
        """Reduce in every backward: kept unsharded until the last, gradients would need the memory
        that sharding saves.
        """

    def backward(self, loss: torch.Tensor, *, where: str = "backward") -> None:
        """Accumulate the gradient of `loss`, and look for what came after its shards were summed.

        The module itself has the engine's hooks. A part of it that is called by itself fails in
        torch while its weights are in shards; while they are not, as after a forward, its gradient
        may come when the block's are on their way, and would go along with the next.
        """
        refuse_gradient_hooks(self._named)
        super().backward(loss, where=where)
        if self._scalar_sums is not None:
            self._scalar_sums.add()
        late = [
            name
            for name, one in self._shards()
            if (whole := unsharded(one)) is not None and whole.grad is not None
        ]
        if late:
            raise ConfigError(
                f"{where}: gradients of {', '.join(late[:3])} came after those of their block had "
                f"been summed over the ranks: a part of the model was called beside job.model. "
                f"{REMEDY} Or {IN_PLACE}. Or the model has returned an object that torch does not "
                "look into: return tensors, or a tuple, dict or dataclass of them."
            )

    def _accumulate(self, loss: torch.Tensor) -> None:
        self.gathers.end_batch()
        super()._accumulate(loss)

    def _shards(self) -> Sequence[tuple[str, Any]]:
        """Return what torch keeps of each trainable parameter, by name."""
        if len(self._found) + len(self._scalars.leaves) < len(self._named):  # see _shards_of
            self._found = _shards_of(self._model, self._named)
        return self._found

    def _gathered(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Return the gathered parameters, which are other tensors than the shards."""
        return [(n, whole) for n, one in self._shards() if (whole := unsharded(one)) is not None]

    def _leaves(self) -> Mapping[int, str]:
        """Return the gathered parameters, which are other tensors than the shards."""
        gathered = {
            id(one.sharded_param if (whole := unsharded(one)) is None else whole): name
            for name, one in self._shards()
        }
        return gathered | self._scalars.leaves

    def step(self, divisor: float) -> StepOutcome:
        """Divide, clip and update, unless a gradient is not finite. Called on every rank."""
        if self._sums is None or self._scalar_sums is None:
            self._scalars.reduce(self.held_back, self.ranks.world_size)
            outcome = super().step(divisor)
        else:
            inexact = (*self._sums.put(), *self._scalar_sums.reduce())
            self._scalars.reduce(self.held_back, world_size=1)  # they are totals already
            exponents = self._sums.exponents | self._scalar_sums.exponents
            outcome = replace(super().step(divisor), exponents=exponents, inexact=inexact)
        self._scalars.forget()
        return outcome

    def begin_exact_step(self, exponents: Mapping[str, int], count: int) -> None:
        """Begin a step whose sums do not depend on their order."""
        if self._sums is not None and self._scalar_sums is not None:
            self._sums.begin(exponents, count)
            self._scalar_sums.begin(exponents, count)

    def skip(self) -> StepOutcome:
        """Drop the gradients of a step in which nothing counted; change nothing. On every rank."""
        self._scalars.forget()
        return super().skip()

    def _update(self) -> None:
        if self._owned_steps is None:
            super()._update()
            return
        grads = {name: _local(p.grad) for name, p in self._named if p.grad is not None}
        self._owned_steps.step(self._optimizer.step, grads)

    def _stepped(self, trained: Sequence[tuple[str, nn.Parameter]]) -> Iterable[torch.Tensor]:
        owned = self._owned_steps
        return super()._stepped(trained) if owned is None else owned.stepped()

    def _forget_gradients(self) -> None:
        super()._forget_gradients()
        if self._owned_steps is not None:
            self._owned_steps.release()
            for _, parameter in self._named:
                parameter.grad = None

    def scalars(self) -> Scalars:
        """Return the rest of the optimizer's state of what this rank steps."""
        if self._owned_steps is None:
            return super().scalars()
        return kept_values(self._owned_steps.held(), self._optimizer)

    def _local_grads(self) -> list[torch.Tensor]:
        return [_local(p.grad) for _, p in self._named if p.grad is not None]

    def _squares(self, grads: list[torch.Tensor]) -> float:
        """Sum over the ranks; those with the same rows count them as often."""
        shards, whole = self._scalars.part(grads)
        if self.options.exact:
            held = [*shards, *(whole if self.ranks.is_coordinator else ())]
            first = held if self.ranks.rank < self._shards_of_row else []
            return self._exact_squares(first, [g.reshape(-1) for g in first])
        own = sum_of_squares(shards, self.ranks.device)
        if whole and self.ranks.is_coordinator:
            # One rank for all: a number that each read for itself would be one wait more.
            own = own + sum_of_squares(whole, self.ranks.device) * self._replicas
        return sum_over_ranks(own, self.ranks, self.meanwhile) / self._replicas

    def fragments(self, *, weights_only: bool) -> list[Fragment]:
        """Return the rows of every parameter that this rank holds."""
        self._reshard()
        found: list[Fragment] = []
        for name, parameter in self._parameters:
            shard = shard_range(parameter)
            start, end = self._share(*shard) if parameter.ndim else self._whole_share()
            if start == end:
                continue
            own = slice(start - shard[0], end - shard[0])
            spec = self.catalogue.frozen.get(name) or self.catalogue.trainable[name]
            found.append(_fragment(spec, start, end, parameter, own))
            if weights_only or name in self.catalogue.frozen or self._owned_steps is not None:
                continue
            kept = kept_state(self._optimizer, parameter, name)
            found += [
                _fragment(state_spec(spec, key, tensor.dtype), start, end, tensor, own)
                for key, tensor in sorted(kept.tensors.items())
            ]
        if self._owned_steps is not None and not weights_only:
            held, specs = self._owned_steps.held(), self.catalogue.trainable
            found += kept_fragments(held, self._optimizer, specs, self._share_of_held)
        return found + self._buffer_fragments()

    def _weights_alike(self) -> Replicas:
        """Return the rows that the same rank of every node holds, and what has no rows."""
        if self._replicas == 1:
            return Replicas(self._scalars.named)
        self._reshard()
        local = self.ranks.rank % (self.ranks.world_size // self._replicas)
        held = [
            (name, _local(p) if isinstance(p, DTensor) else p)
            for name, p in self._model.named_parameters()
        ]
        return Replicas(held, local)

    def load(self, source: TensorSource, saved: SavedState | None) -> None:
        """Read this rank's rows."""
        self._reshard()
        for name, parameter in self._parameters:
            start, end = shard_range(parameter)
            spec = self.catalogue.frozen.get(name) or self.catalogue.trainable[name]
            copy_flat(_local(parameter), source.read(name, spec.key, start, end))
            if name in self.catalogue.frozen or saved is None or self._owned_steps is not None:
                continue
            created = create_state(self._optimizer, parameter, saved.get(name), spec)
            for key, tensor in created.items():
                copy_flat(_local(tensor), source.read(name, key, start, end))
        if self._owned_steps is not None and saved is not None:
            held, specs = self._owned_steps.held(), self.catalogue.trainable
            load_kept(held, self._optimizer, specs, source, saved)
        load_buffers(self._model, self.catalogue, source)

    def _share_of_held(self, held: Held, start: int, end: int) -> tuple[int, int]:
        """Return this rank's share of a state that is cut, or whole on the same rank of a node."""
        if not held.is_whole and held.owner.ndim == 0:
            return self._whole_share()
        return self._share(start, end)

    def _share(self, start: int, end: int) -> tuple[int, int]:
        """Return this rank's share of a shard that the same rank of every node holds."""
        node, count = self.ranks.rank // (self.ranks.world_size // self._replicas), end - start
        return start + count * node // self._replicas, start + count * (node + 1) // self._replicas

    def _whole_share(self) -> tuple[int, int]:
        """Return this rank's share of the one element that every rank has."""
        return 0, int(self.ranks.is_coordinator)

    def _reshard(self) -> None:
        # The root stays gathered after a forward without backward, such as an evaluation's.
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _take_turn(gathers: AgreedGathers, what: str, *_: object) -> None:
    gathers.take(what)


def _shards_of(
    model: nn.Module, named: Sequence[tuple[str, nn.Parameter]]
) -> list[tuple[str, Any]]:
    """Return (name, torch's own account) of trainable parameters."""
    name_of = {id(parameter): name for name, parameter in named}
    return [
        (name, one)
        for module in model.modules()
        if isinstance(module, FSDPModule)
        for one in fsdp_parameters(module)
        if (name := name_of.get(id(one.sharded_param))) is not None
    ]


def _fragment(spec: TensorSpec, start: int, end: int, tensor: torch.Tensor, own: slice) -> Fragment:
    return fragment_of(spec, start, end, flat(_local(tensor))[own])


def _local(tensor: object) -> torch.Tensor:
    assert isinstance(tensor, DTensor)
    local: torch.Tensor = tensor.to_local()
    return local.detach()
