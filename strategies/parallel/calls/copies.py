"""Copies of the model and of its parts, by pickle and copy.deepcopy: as the user's code built it.

An engine and this package hang hooks, functions and process groups on modules and parameters. A
file cannot hold them, and in a copy they would work on the model itself. So a module is reduced
without what it did not have when it was built, part by part: what its attributes share stays
shared. Where weights are in shards a copy would be empty or hold one rank's rows: it is refused.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any, NoReturn
from weakref import ref

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from ...errors import ConfigError

_ADDED_PREFIX = "_relaunch"
"""Begins the names of attributes that this package adds to a module."""
_ORIGINS = ("strategies", "launcher", "deepspeed")
_HOOKS = "_hooks"
"""Ends the names of a module's tables of hooks."""
_BESIDE_HOOKS = (
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)
"""What torch notes of hooks, by their number."""


class AsBuilt:
    """Which attributes the modules and parameters of a model had before an engine took it."""

    def __init__(self, model: nn.Module) -> None:
        """Note them, of a freshly built model."""
        self._modules = {name: set(vars(module)) for name, module in model.named_modules()}
        self._parameters = {name: set(vars(p)) for name, p in model.named_parameters()}

    def let_be_copied(self, model: nn.Module) -> None:
        """Have modules pickled and copied without what was added to them since, from now on."""
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                # By a weak reference: what a module holds is not to keep it alive.
                noted = ref(module), frozenset(self._modules.get(name, ()))
                vars(module)["__reduce_ex__"] = partial(_reduced, *noted)
                if hasattr(type(module), "__deepcopy__"):
                    vars(module)["__deepcopy__"] = partial(_deep_copied, *noted)

    def let_parameters_be_pickled(
        self, model: nn.Module, refusal: Callable[[nn.Parameter], str | None]
    ) -> None:
        """Have the model's parameters pickled without what was added to them, from now on.

        Args:
            model: its parameters are those that the script gets.
            refusal: why one cannot be pickled; None: it can.
        """
        kept: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for name, parameter in model.named_parameters():
            kept[parameter] = frozenset(self._parameters.get(name, ()))
        copyreg.pickle(nn.Parameter, partial(_reduced_parameter, kept, refusal))


def refuse_copies(model: nn.Module, trouble: str) -> None:
    """Have modules refuse to be pickled and copied, from now on.

    Args:
        model: whose weights are in shards.
        trouble: why, and what to do instead.
    """

    def refuse(*_: Any) -> NoReturn:
        raise ConfigError(f"job.model cannot be copied: {trouble}")

    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            vars(module)["__reduce_ex__"] = vars(module)["__deepcopy__"] = refuse


def _reduced(of: ref[Any], kept: frozenset[str], protocol: Any) -> Any:
    """Return what pickle makes of a module, or of a hook, without what was added to it."""
    shell = _shell(of(), kept)
    cls: Any = type(shell)
    return cls.__reduce_ex__(shell, protocol)


def _deep_copied(of: ref[Any], kept: frozenset[str], memo: dict[int, Any]) -> Any:
    """Return the copy that a class makes by itself, as torch's parametrized ones do."""
    shell = _shell(of(), kept)
    memo.setdefault(id(memo), []).append(shell)  # as `copy` keeps what a memo has by its id()
    return type(shell).__deepcopy__(shell, memo)


def _shell(one: Any, kept: frozenset[str]) -> Any:
    """Return another module, or hook, with the same attributes but for those that were added."""
    cls: Any = type(one)
    shell = cls.__new__(cls)
    attributes = {
        name: value
        for name, value in vars(one).items()
        if name in kept or not _is_added(name, value)
    }
    if isinstance(one, nn.Module):
        attributes |= _hooks_left(attributes)
    vars(shell).update(attributes)
    return shell


def _hooks_left(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a module's tables of hooks, and what torch notes of hooks, without ours."""
    tables: dict[str, Any] = {
        name: hooks
        for name, hooks in attributes.items()
        if name.endswith(_HOOKS) and isinstance(hooks, Mapping)
    }
    all_hooks = [(number, hook) for hooks in tables.values() for number, hook in hooks.items()]
    for _, hook in all_hooks:
        _let_hook_be_copied(hook)
    ours = {number for number, hook in all_hooks if is_ours(hook)}
    tables |= {name: attributes[name] for name in _BESIDE_HOOKS if name in attributes}
    return {
        name: type(hooks)((number, hook) for number, hook in hooks.items() if number not in ours)
        for name, hooks in tables.items()
    }


def _let_hook_be_copied(hook: Any) -> None:
    """Have a hook that is an object, such as a norm's, copied without what was put in its place."""
    attributes = getattr(hook, "__dict__", {})
    if isinstance(hook, FunctionType) or "__reduce_ex__" in attributes:
        return
    if any(map(is_ours, attributes.values())):
        attributes["__reduce_ex__"] = partial(_reduced, ref(hook), frozenset[str]())


def _is_added(name: str, value: Any) -> bool:
    return name.startswith(_ADDED_PREFIX) or is_ours(value)


def is_ours(value: Any) -> bool:
    """Return whether what can be called is of this package or of DeepSpeed; pure."""
    while isinstance(value, partial):
        value = value.func
    if isinstance(value, MethodType):
        value = value.__func__
    if isinstance(value, nn.Module) or not callable(value):
        return False
    # Of a function where it was written: one that wraps another's says that it was there.
    is_function = isinstance(value, FunctionType)
    origin = value.__globals__.get("__name__") if is_function else type(value).__module__
    return str(origin).partition(".")[0] in _ORIGINS


def _reduced_parameter(
    kept: WeakIdKeyDictionary,
    refusal: Callable[[nn.Parameter], str | None],
    parameter: nn.Parameter,
) -> Any:
    """Return what pickle makes of a parameter; of the model's, without what was added to it."""
    names = kept.get(parameter)  # type: ignore[no-untyped-call]
    if names is None:
        return _reduced_by_torch(parameter)
    if (trouble := refusal(parameter)) is not None:
        raise ConfigError(trouble)
    values = parameter.detach()
    if values.untyped_storage().nbytes() > values.nbytes:
        values = values.clone()  # a file would hold all of the buffer that it is a part of
    plain = nn.Parameter(values, parameter.requires_grad)
    vars(plain).update({name: value for name, value in vars(parameter).items() if name in names})
    return _reduced_by_torch(plain)


def _reduced_by_torch(parameter: Any) -> Any:
    return parameter.__reduce_ex__(2)
