"""What a loop gets of a parameter whose values are not on this rank.

Under stage 3 DeepSpeed leaves an empty tensor in a parameter's place between two calls of the
model: its norm is 0, it has no elements, and a file that it is saved to is empty. A loop would take
that for an answer. It gets a parameter that knows its shape, and refuses to be computed with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...errors import ConfigError

_OWN = ("device", "requires_grad", "requires_grad_", "grad", "is_leaf", "__hash__")
"""What is asked of the parameter itself, or done to it."""
_SIZES = ("shape", "size", "numel", "nelement", "dim", "ndim", "ndimension", "__len__", "stride")
_TYPES = (
    "dtype",
    "layout",
    "element_size",
    "itemsize",
    "nbytes",
    "is_floating_point",
    "is_complex",
)
_KINDS = ("is_meta", "is_sparse", "is_quantized", "is_contiguous", "names")
_TOLD = frozenset((*_SIZES, *_TYPES, *_KINDS))
"""What follows from its shape and its dtype."""


class StandIn(nn.Parameter):
    """Answers for a parameter whatever does not need its values."""

    _own: nn.Parameter
    _refuse: Callable[[], None]
    _gradient: Callable[[], torch.Tensor | None] | None

    def __new__(
        cls,
        own: nn.Parameter,
        shape: torch.Size,
        refuse: Callable[[], None],
        gradient: Callable[[], torch.Tensor | None] | None = None,
    ) -> StandIn:
        """Stand for a parameter.

        Args:
            own: the parameter.
            shape: of the whole.
            refuse: raises, where its values are asked for.
            gradient: returns what is in its `.grad` where the parameter has none there.
        """
        empty = torch.empty(shape, dtype=own.dtype, device="meta")
        made: StandIn = torch.Tensor._make_subclass(cls, empty, own.requires_grad)
        made._own, made._refuse, made._gradient = own, refuse, gradient
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer what can be answered, and refuse the rest."""
        asked = _name_of(func)
        first = args[0] if args else None
        if isinstance(first, StandIn):
            if asked in _OWN:
                found = func(first._own, *args[1:], **(kwargs or {}))
                is_missing = asked == "grad" and func.__name__ == "__get__" and found is None
                return first._gradient() if is_missing and first._gradient else found
            if asked in _TOLD and func.__name__ != "__set__":
                with torch._C.DisableTorchFunctionSubclass():
                    return func(*args, **(kwargs or {}))
        _first_in((args, kwargs))._refuse()
        raise AssertionError("a stand-in that refuses returned")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """Return what it stands for."""
        return f"Parameter of shape {tuple(self.shape)}, in shards"

    def __format__(self, _: str) -> str:
        """Return what it stands for."""
        return repr(self)

    def __reduce_ex__(self, _: Any) -> Any:
        """Refuse to be copied or saved."""
        self._refuse()

    __deepcopy__ = __reduce_ex__


def stand_in_state_dicts(model: nn.Module, shown: Callable[[nn.Parameter], nn.Parameter]) -> None:
    """Have the model's own state dicts, as its methods ask for them, hold what the loop gets.

    Args:
        model: the user's. Those with `keep_vars=True` stay as they are.
        shown: of a parameter, what the loop gets; itself where it is whole.
    """

    def replace(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        for name, own in module._parameters.items():
            value = state.get(prefix + name)
            if own is None or value is None or isinstance(value, nn.Parameter):
                continue
            given = shown(own)
            if given is not own and given.shape != value.shape:
                state[prefix + name] = given

    for module in model.modules():
        if module._parameters:
            module.register_state_dict_post_hook(replace)  # type: ignore[no-untyped-call]


def _name_of(func: Any) -> str:
    """Return the name of a function of torch's, or of the attribute that it gets or sets."""
    attribute = getattr(func, "__self__", None)
    is_accessor = func.__name__ in ("__get__", "__set__", "__delete__")
    return str(attribute.__name__ if is_accessor else func.__name__)  # type: ignore[union-attr]


def _first_in(values: Any) -> StandIn:
    found = torch.utils._pytree.tree_leaves(values)
    return next(one for one in found if isinstance(one, StandIn))


def refuse_values(model: nn.Module, own: nn.Parameter, strategy: str) -> None:
    """Refuse to give the values of a parameter.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(values_in_shards(model, own, strategy))


def values_in_shards(model: nn.Module, own: nn.Parameter, strategy: str) -> str:
    """Return why the values of a parameter are not given, and what to do instead."""
    name = next((name for name, one in model.named_parameters() if one is own), "a parameter")
    return (
        f"job.model: the values of {name} are in shards under strategy={strategy}, except while "
        "the model is called. For a penalty on weights pass run.prepare(penalty=Penalty(...)), for "
        "an average of them run.prepare(ema=EMA(...)), and to write them call job.export()."
    )
