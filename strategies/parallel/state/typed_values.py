"""Python and torch values as JSON, and back with their type, dtype and value.

None, bool, int, str, finite floats and lists are themselves; anything else is {kind: content}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from checkpointing import JSON, dtype_name, torch_dtype

from ...errors import ConfigError
from .small_tensors import INLINE_ELEMENTS, on_host

_OWNER, _HOST = "owner", "host"

Store: TypeAlias = Callable[[torch.Tensor, str], None]
"""Takes a tensor and the key under which it is to be stored."""


class UnsavableError(ConfigError):
    """A value that has no place in a checkpoint."""


def encode(
    value: Any, where: str, *, owner: torch.device | None = None, store: Store | None = None
) -> JSON:
    """Return a value as JSON.

    Args:
        value: whatever an optimizer keeps.
        where: its name; begins the sentence of a refusal, and the keys of stored tensors.
        owner: where the parameter is that the value is kept for; None: on the host.
        store: takes tensors of more than `INLINE_ELEMENTS`; None: they are refused.

    Raises:
        UnsavableError: naming what cannot be saved.
    """
    if value is None or type(value) in (bool, int, str):
        return value  # type: ignore[no-any-return]
    if type(value) is float:
        return _number(value)
    encoder = _ENCODERS.get(type(value))
    if encoder is not None:
        return encoder(value, where, lambda item, at: encode(item, at, owner=owner, store=store))
    if type(value) is torch.Tensor:
        return _tensor(value, where, owner or torch.device("cpu"), store)
    if type(value).__module__ == "numpy" and hasattr(value, "dtype") and value.ndim == 0:
        return {"numpy": [str(value.dtype), encode(value.item(), where)]}
    raise UnsavableError(f"{where} is a {type(value).__name__}, which a checkpoint cannot hold")


def encode_or_describe(value: Any, where: str, *, owner: torch.device | None = None) -> JSON:
    """Return a value as JSON, or {"opaque": what it is}, which `decode` does not take."""
    try:
        return encode(value, where, owner=owner)
    except UnsavableError:
        what = value if hasattr(value, "__qualname__") else type(value)
        return {"opaque": f"{what.__module__}.{what.__qualname__}"}


def is_opaque(value: JSON) -> bool:
    """Whether the value is only described."""
    return isinstance(value, Mapping) and "opaque" in value


def decode(
    value: Any,
    *,
    device: torch.device | None = None,
    counters: torch.device | None = None,
    read: Callable[[str], torch.Tensor] | None = None,
) -> Any:
    """Return the value that `encode` was given.

    Args:
        value: from `encode`.
        device: where the parameter is now that the value is kept for; None: on the host.
        counters: for tensors of which it is not known whether they belong beside the parameter.
        read: returns stored tensors by their keys.
    """

    def go(item: Any) -> Any:
        return decode(item, device=device, counters=counters, read=read)

    if isinstance(value, list):
        return [go(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return _made_tensor(content, go, device, counters)
    if kind == "stored":
        assert read is not None, f"nothing reads {content}"
        return read(content)
    return _DECODERS[kind](content, go)


def stored_keys(value: Any) -> list[str]:
    """Return the keys of the tensors that stand beside an encoded value."""
    if isinstance(value, list):
        return [key for item in value for key in stored_keys(item)]
    if not isinstance(value, Mapping):
        return []
    ((kind, content),) = value.items()
    return [content] if kind == "stored" else stored_keys(content) if kind in _NESTED else []


def _number(value: float) -> JSON:
    return value if math.isfinite(value) else {"float": str(value)}


def _tensor(value: torch.Tensor, where: str, owner: torch.device, store: Store | None) -> JSON:
    if value.layout != torch.strided or value.requires_grad:
        raise UnsavableError(f"{where} is a tensor that is sparse or has a gradient")
    if value.numel() > INLINE_ELEMENTS:
        if store is None:
            raise UnsavableError(f"{where} is a tensor of shape {tuple(value.shape)}")
        store(value, where)
        return {"stored": where}
    try:
        dtype = dtype_name(value.dtype)
    except ValueError as error:
        raise UnsavableError(f"{where}: {error}") from error
    flat = on_host(value)
    if flat.is_complex():
        raise UnsavableError(f"{where} is a small tensor of complex numbers")
    numbers = flat.double().tolist() if flat.is_floating_point() else flat.tolist()
    made: dict[str, JSON] = {
        "dtype": dtype,
        "shape": list(value.shape),
        "values": [_number(n) if isinstance(n, float) else n for n in numbers],
    }
    if owner.type != "cpu":
        made["at"] = _OWNER if value.device.type == owner.type else _HOST
    return {"tensor": made}


def _made_tensor(
    content: Any,
    go: Callable[[Any], Any],
    device: torch.device | None,
    counters: torch.device | None,
) -> torch.Tensor:
    dtype = torch_dtype(content["dtype"])
    exact = torch.float64 if dtype.is_floating_point else dtype
    made = torch.tensor(go(content["values"]), dtype=exact).to(dtype).view(content["shape"])
    places = {_OWNER: device, _HOST: torch.device("cpu"), None: counters}
    return made.to(places[content.get("at")] or torch.device("cpu"))


def _numpy(content: Any, go: Callable[[Any], Any]) -> Any:
    import numpy as np

    name, value = content
    return np.dtype(name).type(go(value))


_ENCODERS: dict[type, Callable[[Any, str, Callable[[Any, str], JSON]], JSON]] = {
    list: lambda v, where, go: [go(item, f"{where}.{i}") for i, item in enumerate(v)],
    tuple: lambda v, where, go: {"tuple": [go(item, f"{where}.{i}") for i, item in enumerate(v)]},
    torch.Size: lambda v, where, go: {"size": list(v)},
    dict: lambda v, where, go: {
        "dict": [[go(key, f"{where}'s key"), go(item, f"{where}.{key}")] for key, item in v.items()]
    },
    torch.dtype: lambda v, where, go: {"dtype": str(v).removeprefix("torch.")},
    torch.device: lambda v, where, go: {"device": str(v)},
}
_DECODERS: dict[str, Callable[[Any, Callable[[Any], Any]], Any]] = {
    "float": lambda content, go: float(content),
    "tuple": lambda content, go: tuple(go(content)),
    "size": lambda content, go: torch.Size(content),
    "dict": lambda content, go: {go(key): go(item) for key, item in content},
    "dtype": lambda content, go: getattr(torch, content),
    "device": lambda content, go: torch.device(content),
    "numpy": _numpy,
}
_NESTED = ("tuple", "dict")
