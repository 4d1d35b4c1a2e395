"""Each operation of a micro-batch computed twice, to find kernels whose result varies.

Sums that are free of order do not help where a kernel itself returns other bits for the same input,
as those that add with atomic operations do on a GPU. Its name and the module are known here, in
the forward and in the backward, whatever engine is around the model.

Not seen are operations that draw random numbers, that of communication, what torch.compile has
compiled, and kernels that are called around torch's dispatcher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...torch_internals import node_of_backward, number_of_next_node

_COMMUNICATION = frozenset({"c10d", "_c10d_functional", "c10d_functional", "fsdp", "symm_mem"})
_NOT_REPEATED = ("empty", "new_empty", "resize", "_resize", "set_", "record_stream", "_cudnn_rnn")
"""What these begin with returns memory as it is, or changes more than its schema says."""
_MOVED = frozenset({"running_mean", "running_var"})
"""Arguments that BatchNorm's operations change without saying so."""


class RepeatedKernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """From `begin` to `end`, on the thread that calls them and in the backwards that it starts."""

    def __init__(self, model: nn.Module) -> None:
        """Watch a model, whose modules get names in what is found."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._model = model
        self._handles: list[Any] = []
        self._inside: list[str] = []
        self._module_of: dict[int, str] = {}
        """By the number of a node of the backward, the module whose forward has made it."""
        self._found: str | None = None
        self._is_on = False

    def begin(self) -> None:
        """Begin before the forward of a micro-batch."""
        for name, module in self._model.named_modules():
            named = name or type(module).__name__
            enter = module.register_forward_pre_hook(partial(self._enter, named))
            self._handles += [enter, module.register_forward_hook(self._leave, always_call=True)]
        self._is_on = True
        self.__enter__()  # type: ignore[no-untyped-call]

    def end(self) -> str | None:
        """End after the backward; return what has varied first, with its module, or None."""
        if self._is_on:
            self._is_on = False
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            for handle in self._handles:
                handle.remove()
            self._handles.clear()
        return self._found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and again with copies of what it changes."""
        kwargs = kwargs or {}
        where = self._where()
        if types or self._found is not None or not _is_repeated(func):
            return func(*args, **kwargs)
        try:
            again_args, again_kwargs, written, copies = _with_copies(func, args, kwargs)
        except torch.OutOfMemoryError:  # training may just fit: this operation stays unseen
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        with suppress(torch.OutOfMemoryError):
            again = func(*again_args, **again_kwargs)
            results = zip(_results(result), _results(again), strict=True)
            pairs = [*zip(_tensors(written), _tensors(copies), strict=True), *results]
            if not all(_same(one, other) for one, other in pairs):
                self._found = f"{func} {where}"
        return result

    def _where(self) -> str:
        node = node_of_backward()
        if self._inside:
            if node is None and (number := number_of_next_node()) is not None:
                self._module_of.setdefault(number - 1, self._inside[-1])
            return f"in the forward of {self._inside[-1]}"
        if node is None:
            return "outside of the model"
        made_by = self._module_of.get(node._sequence_nr())
        return f"in the backward of {made_by or node.name()}"

    def _enter(self, name: str, *_: Any) -> None:
        self._inside.append(name)

    def _leave(self, *_: Any) -> None:
        if self._inside:
            self._inside.pop()


def _is_repeated(func: Any) -> bool:
    """Return whether an operation can be run again and should return the same; pure."""
    name = func._schema.name.partition("::")[2]
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in _returns(func))
    return not (
        is_view
        or func.namespace in _COMMUNICATION
        or name.startswith(_NOT_REPEATED)
        # A backward gets the seed of its forward.
        or (torch.Tag.nondeterministic_seeded in func.tags and not name.endswith("_backward"))
    )


def _returns(func: Any) -> Sequence[Any]:
    returns: Sequence[Any] = func._schema.returns
    return returns


def _with_copies(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any], list[Any], list[Any]]:
    """Return the arguments of the second run, and what the first and the second run write to."""
    again_args, again_kwargs = list(args), dict(kwargs)
    written, copies = [], []
    for number, argument in enumerate(func._schema.arguments):
        info = argument.alias_info
        if not (info is not None and info.is_write) and argument.name not in _MOVED:
            continue
        given: Any = again_args if number < len(again_args) else again_kwargs
        key: Any = number if number < len(again_args) else argument.name
        if key == argument.name and key not in again_kwargs:
            continue
        before = given[key]
        given[key] = _copied(before)
        written.append(before)
        copies.append(given[key])
    return again_args, again_kwargs, written, copies


def _copied(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_copied(one) for one in value]
    return value.clone() if isinstance(value, torch.Tensor) else value


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, list | tuple):
        return [tensor for one in value for tensor in _tensors(one)]
    return [value] if isinstance(value, torch.Tensor) else []


def _results(value: Any) -> list[torch.Tensor]:
    """Return the results, without the bytes beside them in which some keep what is for a backward.

    Not all of such a working space is written to.
    """
    found = _tensors(value)
    return found[:1] + [one for one in found[1:] if one.dtype != torch.uint8]


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two results have the same bits; what is not strided is not compared."""
    if first.layout != torch.strided or first.is_quantized or first.is_meta:
        return True
    if first.shape != second.shape:
        return False
    return torch.equal(first, second) or bool(
        ((first == second) | ((first != first) & (second != second))).all()
    )
