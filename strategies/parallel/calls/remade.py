"""What a script may not do to a model once it is built: give it other parts, or cast it.

What is added then would be in no optimizer, no gradient sum and no checkpoint; what is removed
would be missed there; and the run has chosen the dtypes, of masters and of what is computed with.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, TypeAlias
from weakref import finalize, ref

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from ...errors import ConfigError
from ...torch_internals import is_set_by_fsdp

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.ParameterList, nn.ParameterDict)
_OF_CONTAINERS = frozenset(
    ("append", "extend", "insert", "pop", "popitem", "clear", "update", "setdefault")
)
_OF_MODULES = frozenset(
    ("register_parameter", "register_module", "add_module", "set_submodule", "register_buffer")
)
Owners: TypeAlias = dict[int, tuple[str, ref[nn.Module]]]
"""Modules of the model by id(), each with its name."""
_CASTS = frozenset(("half", "double", "bfloat16", "type", "to_empty"))


class PartsAsBuilt:
    """What a model is made of once an engine has it; its own methods are to leave that so.

    A head that is replaced, a vocabulary that is extended, an adapter, pruning, a parametrization:
    torch tells of each module and parameter that a module is given, at the line where it is done.
    What is removed is looked for before each backward.
    """

    def __init__(self, model: nn.Module) -> None:
        """Watch a model for as long as it is there."""
        named = [
            (name, module)
            for name, module in model.named_modules()
            if not isinstance(module, torch.jit.ScriptModule)
        ]
        self._built = [
            (name, module, dict(module._modules), _held(module), _persistent(module))
            for name, module in named
        ]
        owners: Owners = {id(module): (name, ref(module)) for name, module in named}
        for register in (
            register_module_module_registration_hook,
            register_module_parameter_registration_hook,
        ):
            finalize(model, register(partial(_refuse_given, owners)).remove)

    def require_all(self, where: str) -> None:
        """Look whether all parts are still there. No collective.

        Args:
            where: begins the sentence.

        Raises:
            ConfigError: one is not.
        """
        for name, module, modules, parameters, buffers in self._built:
            if (found := _persistent(module)) != buffers:
                key = next(k for k in (*found, *buffers) if found.get(k) != buffers.get(k))
                _refuse_buffer(where, _joined(name, key), buffers.get(key), found.get(key))
            if module._modules == modules and _held(module) == parameters:
                continue
            now = module._modules
            lost = [key for key in parameters if module._parameters.get(key) is None]
            lost += [
                k for k, part in modules.items() if now.get(k) is not part and _has_state(part)
            ]
            if lost:
                now |= modules  # with it the finished steps are saved
                refuse_parts(f": {_joined(name, lost[0])} was removed or replaced", where=where)


def _held(module: nn.Module) -> list[str]:
    return [name for name, parameter in module._parameters.items() if parameter is not None]


def _persistent(module: nn.Module) -> dict[str, torch.Size]:
    if not module._buffers:
        return {}
    beside = module._non_persistent_buffers_set
    return {
        name: buffer.shape
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in beside
    }


def _refuse_buffer(
    where: str, name: str, before: torch.Size | None, now: torch.Size | None
) -> NoReturn:
    shapes = [None if shape is None else tuple(shape) for shape in (before, now)]
    what = f"has changed its shape from {shapes[0]} to {shapes[1]}"
    if before is None or now is None:
        what = "was made" if before is None else "was removed"
    raise ConfigError(
        f"{where}: the buffer {name} {what} after the model was built, and a checkpoint holds "
        "buffers as they were built. Register it in the function that is passed as model=, with "
        "the shape that it keeps; or with persistent=False, if each start may begin it anew."
    )


def _refuse_given(owners: Owners, module: nn.Module, name: str, given: Any) -> None:
    """Refuse what a module of the model is given, as torch's hooks of registrations are called.

    Raises:
        ConfigError: it, or what it takes the place of, is in a checkpoint, or should be.
    """
    prefix, of = owners.get(id(module), ("", None))
    if of is None or of() is not module:
        return
    held = module._parameters.get(name), module._modules.get(name)
    if any(given is one for one in held if one is not None) or is_set_by_fsdp():
        return
    if any(map(_has_state, (given, *held))):
        refuse_parts(f".{_joined(prefix, name)} = {_described(given)}")
    if isinstance(given, nn.Module):
        # A container that is empty now may be given something.
        owners[id(given)] = _joined(prefix, name), ref(given)


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _has_state(part: object) -> bool:
    return isinstance(part, nn.Parameter) or (
        isinstance(part, nn.Module) and bool(part.state_dict(keep_vars=True))
    )


def _described(given: Any) -> str:
    if isinstance(given, nn.Parameter):
        return f"Parameter of shape {tuple(given.shape)}"
    return "None" if given is None else f"{type(given).__name__}(...)"


def checked(target: nn.Module, name: str, value: Any) -> Any:
    """Return a module's attribute, or in its place what refuses, if it would make another model.

    Args:
        target: a module of the model's.
        name: of the attribute.
        value: of the attribute.
    """
    is_of_container = isinstance(target, CONTAINERS) and name in _OF_CONTAINERS
    if is_of_container or _is_torchs(target, name, _OF_MODULES):
        return _register_buffer(value) if name == "register_buffer" else _refuse_parts(name)
    if _is_torchs(target, name, _CASTS):
        return _refuse_cast(name)
    if _is_torchs(target, name, frozenset(("to",))):
        return _moved(target, value)
    return value


def keep_part(module: nn.Module, name: str) -> None:
    """Refuse to remove a module, a parameter or a buffer.

    Raises:
        ConfigError: it is one.
    """
    tables = module._modules, module._parameters, module._buffers
    if any(table.get(name) is not None for table in tables):
        refuse_parts(f": {name} was removed")


def items_of(module: nn.Module) -> Any:
    """Return a module whose items the script sets or deletes, if its class is the user's own.

    Raises:
        ConfigError: they are modules or parameters.
    """
    if isinstance(module, CONTAINERS):
        refuse_parts(": an item was set or deleted")
    return module


def refuse_parts(what: str, *, where: str = "") -> NoReturn:
    """Refuse to change what a model is made of.

    Args:
        what: the script has done, after "job.model".
        where: begins the sentence, if it was done before.

    Raises:
        ConfigError: always.
    """
    begin = where and f"{where}: "
    raise ConfigError(
        f"{begin}job.model{what}: the model was built, and what is added would be in no optimizer, "
        "no gradient sum and no checkpoint, and what is removed would be missed there. Do it in "
        "the function that is passed as model=."
    )


def _is_torchs(target: nn.Module, name: str, names: frozenset[str]) -> bool:
    """Return whether it is a method that every module has, and not one of the user's own."""
    return name in names and getattr(type(target), name, None) is getattr(nn.Module, name)


def _refuse_parts(name: str) -> Callable[..., NoReturn]:
    return lambda *_, **__: refuse_parts(f".{name}()")


def _register_buffer(register: Callable[..., None]) -> Callable[..., None]:
    def registered(
        name: str, tensor: torch.Tensor | None, persistent: bool = True, **more: Any
    ) -> None:
        if persistent:
            refuse_parts(f'.register_buffer("{name}")')
        register(name, tensor, persistent=False, **more)

    return registered


def _refuse_cast(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise ConfigError(
            f"job.model.{name}() would cast weights that the run holds in a dtype of its own. "
            "--precision chooses what is computed with; cast what is frozen in the function that "
            "is passed as model=."
        )

    return refuse


def _moved(target: nn.Module, to: Callable[..., Any]) -> Callable[..., Any]:
    def moved(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        asked = [
            one if isinstance(one, torch.dtype) else getattr(one, "dtype", None) for one in given
        ]
        kinds = {p.dtype for p in target.parameters() if p.is_floating_point()}
        if any(dtype is not None and kinds - {dtype} for dtype in asked):
            _refuse_cast("to")()
        return to(*args, **kwargs)

    return moved
