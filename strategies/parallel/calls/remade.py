"""What a script may not do to a model once it is built: give it other parts, or cast it.

What is added then would be in no optimizer, no gradient sum and no checkpoint; what is removed
would be missed there; and the run has chosen the dtypes, of masters and of what is computed with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import nn

from ...errors import ConfigError

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.ParameterList, nn.ParameterDict)
_OF_CONTAINERS = frozenset(
    ("append", "extend", "insert", "pop", "popitem", "clear", "update", "setdefault")
)
_OF_MODULES = frozenset(
    ("register_parameter", "register_module", "add_module", "set_submodule", "register_buffer")
)
_CASTS = frozenset(("half", "double", "bfloat16", "type", "to_empty"))


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


def refuse_parts(what: str) -> NoReturn:
    """Refuse to change what a model is made of.

    Args:
        what: the script has done, after "job.model".

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"job.model{what}: the model was built, and what is added would be in no optimizer, no "
        "gradient sum and no checkpoint, and what is removed would be missed there. Do it in the "
        "function that is passed as model=."
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
