"""Several models and several optimizers of one script, as one state.

Each model is read and written by the strategy that it is, under its name and a dot. Models that
every rank holds whole are one part, so that they may share modules, as an actor and a critic do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import nn

from checkpointing import JSON, Fragment, TensorSpec

from ...collectives.replicas import Replicas
from ...errors import ConfigError
from ..catalogue import Catalogue
from ..gradients.bucket_order import BucketOrder
from ..state.implementation import library_of
from ..state.optimizer_extras import extras_of, plain_attributes, put_back_extras
from ..state.saved_state import SavedState, Scalars, TensorSource
from ..state.trained_state import TrainedState
from ..strategy import Strategy
from .adoption import live_groups

Value = TypeVar("Value")
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def by_name(given: Any, argument: str) -> dict[str, Any] | None:
    """Return several models or optimizers by name; None: it is one. Pure.

    Raises:
        ConfigError: a name that cannot stand in the names of tensors, or nothing at all.
    """
    if isinstance(given, nn.Module) or not isinstance(given, Mapping | list | tuple):
        return None
    named = given if isinstance(given, Mapping) else {str(n): one for n, one in enumerate(given)}
    for name in named:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                f"{argument}= has the name {name!r}: parameters are saved as NAME.weight, so give "
                "each a name of letters, digits, _ and -."
            )
    if not named:
        raise ConfigError(f"{argument}= is empty: pass at least one.")
    return dict(named)


def together(models: Mapping[str, nn.Module]) -> nn.Module:
    """Return one module that holds these under their names; never called. "" stands for itself."""
    if "" in models:
        return models[""]
    holder = nn.Module()
    holder._modules.update(models)  # add_module refuses names such as "train"
    return holder


class SeveralOptimizers:
    """Which optimizer holds which parameter."""

    def __init__(
        self,
        modules: Sequence[tuple[str, nn.Module]],
        optimizers: Mapping[str, torch.optim.Optimizer],
    ) -> None:
        """Look at all of them.

        Args:
            modules: with the prefix of their names.
            optimizers: by name; "": the only one.

        Raises:
            ConfigError: one holds others' parameters, or none, or two hold the same.
        """
        self.optimizers = optimizers
        self.as_built = {name: plain_attributes(one) for name, one in optimizers.items()}
        named = [(_join(prefix, n), p) for prefix, m in modules for n, p in m.named_parameters()]
        _refuse_shared(named)
        self.groups: list[list[str]] = []
        """Names of the parameters of each group, of one optimizer after the other."""
        self._holder: dict[int, str] = {}
        parameters = dict(named)
        holder_of: dict[str, str] = {}
        for name, one in optimizers.items():
            called = f'optimizer "{name}"' if name else "the optimizer"
            groups = live_groups(one, named, called=called, owner="any model")
            for parameter in (p for group in groups for p in group):
                if (other := holder_of.setdefault(parameter, name)) != name:
                    raise ConfigError(
                        f"{parameter} is held by optimizer {other!r} and by optimizer {name!r}: "
                        "each would keep a state of its own under that one name. Give each "
                        "parameter to one optimizer."
                    )
                self._holder[id(parameters[parameter])] = name
            self.groups += groups

    def of(self, module: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a module's parameters; where several are, one that looks so."""
        names = {self._holder[id(p)] for p in module.parameters() if id(p) in self._holder}
        own = [one for name, one in self.optimizers.items() if name in names]
        if len(own) == 1:
            return own[0]
        holders = {i: self.optimizers[name] for i, name in self._holder.items()}
        return cast(torch.optim.Optimizer, JoinedOptimizers(own, holders))

    def groups_of(self, prefix: str, module: nn.Module) -> list[list[str]]:
        """Return of each group the names, within a module, of what it holds of that module."""
        own = {_join(prefix, name): name for name, _ in module.named_parameters()}
        return [[own[name] for name in group if name in own] for group in self.groups]


class JoinedOptimizers:
    """As much of an optimizer as reading and writing state needs, out of several or none."""

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        holders: Mapping[int, torch.optim.Optimizer],
    ) -> None:
        """Take them, and the one that holds each parameter, by id()."""
        self._own = optimizers
        self.state = _JoinedState(holders)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The live parameter groups."""
        return [group for one in self._own for group in one.param_groups]


class _JoinedState(MutableMapping[torch.Tensor, dict[str, Any]]):
    """The states of several optimizers, by parameter."""

    def __init__(self, holders: Mapping[int, torch.optim.Optimizer]) -> None:
        self._holders = holders

    def __getitem__(self, owner: torch.Tensor) -> dict[str, Any]:
        holder = self._holders.get(id(owner))
        if holder is None or owner not in holder.state:  # torch's own would make an empty one
            raise KeyError(owner)
        kept: dict[str, Any] = holder.state[owner]
        return kept

    def __setitem__(self, owner: torch.Tensor, kept: dict[str, Any]) -> None:
        self._holders[id(owner)].state[owner] = kept

    def __delitem__(self, owner: torch.Tensor) -> None:
        del self._holders[id(owner)].state[owner]

    def __iter__(self) -> Iterator[torch.Tensor]:
        for holder in dict.fromkeys(self._holders.values()):
            yield from (key for key in holder.state if isinstance(key, torch.Tensor))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Part:
    """Some models of a script, as the strategy that they are."""

    prefix: str
    """Before the names of its tensors; "": they have their models' names already."""
    strategy: Strategy

    def named(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return what the strategy has by tensor, by the names of the whole."""
        return {_join(self.prefix, name): value for name, value in values.items()}

    def spec(self, spec: TensorSpec) -> TensorSpec:
        """Return the spec of a tensor of the whole."""
        return replace(spec, fqn=_join(self.prefix, spec.fqn))


@dataclass(frozen=True)
class _Within:
    """A checkpoint as one part sees it."""

    source: TensorSource
    prefix: str

    def read(self, fqn: str, key: str, start: int, end: int) -> torch.Tensor:
        return self.source.read(_join(self.prefix, fqn), key, start, end)

    def read_whole(self, fqn: str, key: str, numel: int) -> torch.Tensor:
        return self.source.read_whole(_join(self.prefix, fqn), key, numel)


class LiveSeveral:
    """A `TrainedState` of several models; the members are documented there."""

    bucket_orders: Sequence[BucketOrder] = ()

    def __init__(self, parts: Sequence[Part], owners: SeveralOptimizers) -> None:
        """Take the parts in an order that is the same on every rank, DeepSpeed's engines last."""
        self._parts, self._owners = parts, owners
        self._engines = {p.prefix: p for p in parts if p.strategy.name.startswith("zero")}
        self.name = "+".join(dict.fromkeys(part.strategy.name for part in parts))
        found = [part.strategy.catalogue for part in parts]
        self.catalogue = Catalogue(
            **{
                kind: {
                    _join(part.prefix, name): part.spec(spec)
                    for part, one in zip(parts, found, strict=True)
                    for name, spec in getattr(one, kind).items()
                }
                for kind in ("trainable", "frozen", "buffers")
            },
            aliases={
                _join(part.prefix, name): _join(part.prefix, first)
                for part, one in zip(parts, found, strict=True)
                for name, first in one.aliases.items()
            },
        )
        if not self.catalogue.trainable:
            raise ConfigError("no optimizer was passed for any model: nothing would be trained.")

    @property
    def named_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Every optimizer that steps, by the name that the script gives; an engine's by its own."""
        engines = {name: part.strategy._optimizer for name, part in self._engines.items()}
        return {**self._owners.optimizers, **engines}

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """Return every optimizer that steps."""
        return list(self.named_optimizers.values())

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The live parameter groups, of one optimizer after the other."""
        return [group for one in self.optimizers for group in one.param_groups]

    @property
    def group_names(self) -> list[list[str]]:
        """Names of the parameters of each group."""
        engines = [
            [_join(name, parameter) for parameter in group]
            for name, part in self._engines.items()
            for group in part.strategy.group_names
        ]
        return [*self._owners.groups, *engines]

    @property
    def optimizer_name(self) -> str:
        """Class names, with the names that the script gives where there are several."""
        kinds = {name: type(one).__name__ for name, one in self.named_optimizers.items()}
        if len(kinds) == 1:
            return next(iter(kinds.values()))
        return ", ".join(f"{name}: {kind}" for name, kind in sorted(kinds.items()))

    @property
    def optimizer_library(self) -> str | None:
        """Installed packages that they come from; None: the script's own."""
        found = {library_of(type(one)) or "" for one in self.optimizers}
        return " and ".join(sorted(filter(None, found))) or None

    def fragments(self, *, weights_only: bool) -> list[Fragment]:
        """Return live views of this rank's share of every model. No collective."""
        return [
            replace(fragment, spec=part.spec(fragment.spec))
            for part in self._parts
            for fragment in part.strategy.fragments(weights_only=weights_only)
        ]

    def scalars(self) -> Scalars:
        """Return the rest of the optimizers' state of what this rank holds. No collective."""
        return {
            name: kept
            for part in self._parts
            for name, kept in part.named(part.strategy.scalars()).items()
        }

    def extras(self) -> dict[str, JSON]:
        """Return what each optimizer keeps beside its groups and its parameters' state."""
        own: dict[str, JSON] = {
            name: extras_of(one, self._owners.as_built[name])
            for name, one in self._owners.optimizers.items()
        }
        engines = {name: part.strategy.extras() for name, part in self._engines.items()}
        return {"several": {**own, **engines}}

    def put_back_extras(self, saved: Mapping[str, Any]) -> None:
        """Put back what `extras` returned when the checkpoint was made. No collective."""
        several = saved.get("several", {})
        for name, one in self._owners.optimizers.items():
            put_back_extras(one, self._owners.as_built[name], several.get(name, {}))
        for name, part in self._engines.items():
            part.strategy.put_back_extras(several.get(name, {}))

    def load(self, source: TensorSource, saved: SavedState | None) -> None:
        """Overwrite this rank's share. Called on every rank; `refresh` must follow."""
        for part in self._parts:
            own = None if saved is None else _within(saved, part.prefix)
            part.strategy.load(_Within(source, part.prefix), own)

    def refresh(self) -> None:
        """Make the computing weights follow what was loaded. Called on every rank."""
        for part in self._parts:
            part.strategy.refresh()

    def replicas(self) -> Replicas:
        """Return the weights that other ranks hold too. No collective."""
        found = [(part, part.strategy.replicas()) for part in self._parts]
        held = [(part, one) for part, one in found if one.named]
        # What all ranks hold is also held by those that hold the same rows.
        groups = {one.group for _, one in held if one.group is not None}
        named = [(_join(p.prefix, name), t) for p, one in held for name, t in one.named]
        return Replicas(named, next(iter(groups), None))

    def weight_specs(self) -> list[TensorSpec]:
        """Return the tensors that every checkpoint of these models must hold."""
        return self.catalogue.weight_specs()


def rates_of(state: TrainedState) -> dict[str, float]:
    """Return the learning rates as a record holds them; of an optimizer that of its first group.

    That is `lr`, of the first optimizer, and `lr.NAME` of each where there are several.
    """
    found = {"lr": float(state.param_groups[0]["lr"])}
    if isinstance(state, LiveSeveral) and len(state.optimizers) > 1:
        named = state.named_optimizers.items()
        found |= {f"lr.{name}": float(one.param_groups[0]["lr"]) for name, one in named}
    return found


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _within(saved: SavedState, prefix: str) -> SavedState:
    """Return of an optimizer's saved state what belongs to one part, by that part's names."""
    begin = _join(prefix, "")
    return SavedState(
        parameters={
            name.removeprefix(begin): kept
            for name, kept in saved.parameters.items()
            if name.startswith(begin)
        }
    )


def _refuse_shared(named: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Refuse a parameter of two models of which one is sharded.

    Raises:
        ConfigError: naming both names.
    """
    first: dict[int, str] = {}
    for name, parameter in named:
        if (other := first.setdefault(id(parameter), name)) != name:
            raise ConfigError(
                f"{name} and {other} are one parameter of two sharded models: which of them saves "
                "it is not known. Make one model of the two, or leave what they share unsharded."
            )
