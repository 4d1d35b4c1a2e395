"""The model as a training loop holds it: its own attributes, and calls that the engine sees.

An engine sums gradients, gathers weights and casts around its own forward alone. So what is called
on a view (the model, one of its methods, a part of it, a part's method) goes through the engine's
forward; what is read or set is the user's module's own.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial, wraps
from types import MethodType
from typing import Any, TypeAlias, cast

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ...errors import ConfigError
from ...modifiers.moving_numbers import SET_BY_LOOP
from .copies import AsBuilt, refuse_copies
from .gradient_watch import OwnBackwards
from .remade import checked, items_of, keep_part, refuse_parts

_SPECIAL = ("__len__", "__getitem__", "__iter__", "__contains__")
"""Looked up by Python on the class; a view has those that the user's class has."""
COPY = "__deepcopy__"
"""Refused where a copy would not have the weights."""
COPY_IN_SHARDS = (
    "its weights are in shards. To write them to a file call job.export() on every rank. For an "
    "average of the weights pass run.prepare(ema=EMA(...)). A teacher can be a part of the model, "
    "built in the function that is passed as model= and frozen there by requires_grad_(False)."
)
_WRITES_A_SHARE = (
    "the weights are in shards, and a file would hold this rank's share alone. job.export() on "
    "every rank writes the whole model, as one safetensors file beside its config.json."
)
IN_SHARDS: Mapping[str, str] = {
    COPY: COPY_IN_SHARDS,
    "save_pretrained": _WRITES_A_SHARE,
    "push_to_hub": _WRITES_A_SHARE,
}
"""What cannot be done with a model whose weights are in shards, and why."""
_PLAIN = (str, bytes, bool, int, float, complex, type(None), torch.dtype, torch.device)


@dataclass(frozen=True)
class Call:
    """What is called, and which modules are around it."""

    function: Callable[..., Any]
    """A module, or a bound method of one."""
    enclosing: tuple[nn.Module, ...] = ()
    """From the model inward; none: it is the model itself that is called."""


Shown: TypeAlias = Callable[[nn.Parameter], nn.Parameter]
"""A parameter -> what the loop gets in its place."""
Listing: TypeAlias = Callable[..., Any]
"""What a module has to give out its parameters."""
Through: TypeAlias = Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]
"""(call, args, kwargs) -> what it returns, called inside the engine's forward."""


class ModelCalls:
    """Sends the calls of a model through its engine, and notes whether one has gone there."""

    def __init__(
        self,
        model: nn.Module,
        through: Through,
        refused: Mapping[str, str] | None = None,
        shown: Shown | None = None,
        as_built: AsBuilt | None = None,
    ) -> None:
        """Stand before a model.

        Args:
            model: the user's.
            through: carries a call out inside the engine's forward.
            refused: methods that the engine would undo, and why.
            shown: of a parameter, what the loop gets; None: the parameter itself.
            as_built: what copies of the model have; None: they have all that it has.
        """
        self._model = model
        self._through = through
        self._refused = refused or {}
        self._shown = shown
        self.has_passed = False
        """Whether a call has returned what a loss can hang on."""
        self.before_call: Callable[[], None] | None = None
        """Called before each call that goes through the engine."""
        self.own_backwards: OwnBackwards | None = None
        self.are_together = False
        """Whether all ranks do the same now, so that what gathers weights may be called."""
        self.view = _view(self, model, (), is_wrapper=True)
        """What the training loop holds."""
        if COPY in self._refused:
            refuse_copies(model, self._refused[COPY])
        elif as_built is not None:
            as_built.let_be_copied(model)

    def run(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Carry out a call inside the engine's forward."""
        if self.before_call is not None:
            self.before_call()
        result = self._through(call, args, kwargs)
        if self.own_backwards is not None:
            self.own_backwards.watch(result)
        if not self.has_passed and torch.is_grad_enabled():
            self.has_passed = may_hold_gradients(result)
        return result

    def refusal_of(self, name: str) -> Callable[..., Any] | None:
        """Return what raises ConfigError in a method's place, if the engine would undo it."""
        if name not in self._refused:
            return None

        def refuse(*_: Any, **__: Any) -> None:
            raise ConfigError(f"job.model.{name}: {self._refused[name]}")

        return refuse

    def require_copyable(self) -> None:
        """Refuse a copy that would not have the weights.

        Raises:
            ConfigError: so it is.
        """
        if (trouble := self._refused.get(COPY)) is not None:
            raise ConfigError(f"job.model cannot be copied: {trouble}")

    def run_method(
        self,
        method: MethodType,
        enclosing: tuple[nn.Module, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Carry out a method: through the engine, unless it is one that only tells or sets.

        Outside of a step one rank alone may ask for, say, a number; what computes takes tensors.
        """
        if self.are_together or _has_tensor(args, kwargs):
            found = self.run(Call(method, enclosing), args, kwargs)
        else:
            found = method(*args, **kwargs)
        if isinstance(found, nn.Module) and (path := self._path_of(found)) is not None:
            return _view(self, found, path)
        return found

    def seen(self, value: Any, enclosing: tuple[nn.Module, ...]) -> Any:
        """Return a module as a view, a parameter as the loop gets it, anything else as it is."""
        if isinstance(value, nn.Module):
            return _view(self, value, enclosing)
        if self._shown is not None and isinstance(value, nn.Parameter):
            return self._shown(value)
        return value

    def shown_by(self, function: Any, of_class: Any) -> Any:
        """Return what hands out parameters as the loop gets them, or the function itself.

        Args:
            function: as the module has it; an engine may have put another in its place.
            of_class: what the module's class has under its name.
        """
        shown = self._shown
        hand_out = _HAND_OUT.get(of_class) if inspect.isroutine(of_class) else None
        if shown is None or hand_out is None:
            return function
        return partial(hand_out, function, shown)

    def _path_of(self, part: nn.Module) -> tuple[nn.Module, ...] | None:
        """Return the modules around a part of the model; None: it is none."""
        for name, module in self._model.named_modules():
            if module is part:
                names = name.split(".") if name else []
                return tuple(
                    self._model.get_submodule(".".join(names[:depth]))
                    for depth in range(len(names))
                )
        return None


class ModelView:
    """Stands for a module of the user's, whose class `isinstance` sees. See `ModelCalls`."""

    __slots__ = ("__calls", "__enclosing", "__is_wrapper", "__target", "__weakref__")

    def __init__(
        self,
        calls: ModelCalls,
        target: nn.Module,
        enclosing: tuple[nn.Module, ...],
        *,
        is_wrapper: bool,
    ) -> None:
        set_own = object.__setattr__
        set_own(self, "_ModelView__calls", calls)
        set_own(self, "_ModelView__target", target)
        set_own(self, "_ModelView__enclosing", enclosing)
        set_own(self, "_ModelView__is_wrapper", is_wrapper)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self.__target)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module inside the engine's forward."""
        return self.__calls.run(Call(self.__target, self.__enclosing), args, kwargs)

    def __getattr__(self, name: str) -> Any:
        target = self.__target
        if name == "module" and self.__is_wrapper and not hasattr(target, name):
            # Whoever takes the model out of a wrapper, as of DDP's, keeps the engine around it.
            return _view(self.__calls, target, ())
        value = getattr(target, name)
        if isinstance(value, nn.Module | nn.Parameter):
            return self.__calls.seen(value, (*self.__enclosing, target))
        is_method = isinstance(value, MethodType) and value.__self__ is target
        if (refusal := self.__calls.refusal_of(name)) is not None:
            return refusal
        if not is_method or not _computes(value, name):
            value = checked(target, name, value)
            return self.__calls.shown_by(value, getattr(type(target), name, None))
        calls, around = self.__calls, (*self.__enclosing, target)

        @wraps(value)
        def called(*args: Any, **kwargs: Any) -> Any:
            return calls.run_method(value, around, args, kwargs)

        return called

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Parameter | nn.Module):
            raise ConfigError(
                f"job.model.{name} was given a {type(value).__name__} after the model was built: "
                "it would be in no optimizer, no gradient sum and no checkpoint. Make it in the "
                "function that is passed as model=."
            )
        if value is None:
            keep_part(self.__target, name)
        elif isinstance(value, int | float | str):
            vars(self.__target).setdefault(SET_BY_LOOP, set()).add(name)
        setattr(self.__target, name, value)

    def __delattr__(self, name: str) -> None:
        keep_part(self.__target, name)
        delattr(self.__target, name)

    def __setitem__(self, key: Any, value: Any) -> None:
        items_of(self.__target)[key] = value

    def __delitem__(self, key: Any) -> None:
        del items_of(self.__target)[key]

    def __iadd__(self, other: Any) -> Any:
        refuse_parts(" += ...")

    def __dir__(self) -> list[str]:
        return dir(self.__target)

    def __repr__(self) -> str:
        return repr(self.__target)

    def __bool__(self) -> bool:
        return bool(self.__target)

    def __eq__(self, other: object) -> bool:
        return self.__target is (other.__target if isinstance(other, ModelView) else other)

    def __hash__(self) -> int:
        return hash(self.__target)

    def __deepcopy__(self, memo: Any) -> Any:
        """Copy the user's module, unless its weights are elsewhere."""
        self.__calls.require_copyable()
        return copy.deepcopy(self.__target, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy of a view is one of the user's module."""
        self.__calls.require_copyable()
        return self.__target.__reduce_ex__(protocol)

    def _relaunch_special(self, name: str, *args: Any) -> Any:
        target = self.__target
        found = getattr(target, name)(*args)
        around = (*self.__enclosing, target)
        if isinstance(found, Iterator):
            return (self.__calls.seen(one, around) for one in found)
        return self.__calls.seen(found, around)


def _view(
    calls: ModelCalls,
    target: nn.Module,
    enclosing: tuple[nn.Module, ...],
    *,
    is_wrapper: bool = False,
) -> nn.Module:
    kind = _kind(tuple(name for name in _SPECIAL if hasattr(target, name)))
    return cast(nn.Module, kind(calls, target, enclosing, is_wrapper=is_wrapper))


@cache
def _kind(names: tuple[str, ...]) -> type[ModelView]:
    """Return a view's class with these special methods."""
    methods = {name: _special(name) for name in names}
    return type("ModelView", (ModelView,), {"__slots__": (), **methods})


def _special(name: str) -> Callable[..., Any]:
    def special(self: ModelView, *args: Any) -> Any:
        return self._relaunch_special(name, *args)

    return special


def _named(method: Listing, shown: Shown, *args: Any, **kwargs: Any) -> Any:
    return ((name, shown(parameter)) for name, parameter in method(*args, **kwargs))


def _each(method: Listing, shown: Shown, *args: Any, **kwargs: Any) -> Any:
    return (shown(parameter) for parameter in method(*args, **kwargs))


def _one(method: Listing, shown: Shown, *args: Any, **kwargs: Any) -> Any:
    return shown(method(*args, **kwargs))


def _state(
    method: Listing, shown: Shown, *args: Any, keep_vars: bool = False, **kwargs: Any
) -> Any:
    found = method(*args, keep_vars=True, **kwargs)
    for key, value in list(found.items()):
        if isinstance(value, nn.Parameter) and (given := shown(value)) is not value:
            found[key] = given
        elif isinstance(value, torch.Tensor) and not keep_vars:
            found[key] = value.detach()
    return found


_HAND_OUT: dict[Any, Callable[..., Any]] = {
    nn.Module.named_parameters: _named,
    nn.Module.parameters: _each,
    nn.Module.get_parameter: _one,
    nn.Module.state_dict: _state,
}
"""Methods that every module has, and what does the same with parameters as the loop gets them."""


def _computes(method: MethodType, name: str) -> bool:
    """Return whether a method of a module may compute with its weights.

    Not what every module or container has, nor what computes only later.
    """
    if name == "forward":
        return True
    function = method.__func__
    defined_in = getattr(function, "__module__", None)
    if hasattr(nn.Module, name) or defined_in == nn.ModuleList.__module__:
        return False
    return not (
        inspect.isgeneratorfunction(function)
        or inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
    )


def _has_tensor(*arguments: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(arguments))


def may_hold_gradients(result: Any) -> bool:
    """Return whether a loss can hang on what a call has returned, as far as can be seen."""
    return any(
        leaf.requires_grad if isinstance(leaf, torch.Tensor) else not isinstance(leaf, _PLAIN)
        for leaf in tree_leaves(result)
    )
