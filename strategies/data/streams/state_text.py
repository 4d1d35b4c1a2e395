"""The state of a stream as JSON, without any change of its values."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from checkpointing import JSON

from ...errors import ConfigError

_KIND = "//"
"""Key of what JSON has no form for: its kind stands there."""
_PLAIN = (np.bool_, np.number)


def to_text(state: Any, where: str) -> JSON:
    """Return a state as JSON: numbers, text, bytes, lists, tuples, dicts, tensors and arrays.

    Raises:
        ConfigError: it holds something else; the message names the place.
    """
    if state is None or isinstance(state, bool | int | str):
        return state
    if isinstance(state, float):
        return state if math.isfinite(state) else {_KIND: "float", "is": repr(state)}
    if isinstance(state, list):
        return [to_text(one, f"{where}[{n}]") for n, one in enumerate(state)]
    if isinstance(state, tuple):
        return {_KIND: "tuple", "is": to_text(list(state), where)}
    if isinstance(state, Mapping):
        items = {key: to_text(value, f"{where}[{key!r}]") for key, value in state.items()}
        is_plain = _KIND not in items and all(isinstance(key, str) for key in items)
        if is_plain and list(items) == sorted(items):  # in a manifest keys are sorted
            return items
        return {_KIND: "dict", "is": [[to_text(key, where), value] for key, value in items.items()]}
    if isinstance(state, bytes):
        return {_KIND: "bytes", "is": _from_bytes(state)}
    if isinstance(state, torch.Tensor):
        kind = str(state.dtype).removeprefix("torch.")
        raw = state.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return {_KIND: "tensor", "dtype": kind, "shape": list(state.shape), "is": _from_bytes(raw)}
    if isinstance(state, np.ndarray) and state.dtype.kind in "biufc":
        data = _from_bytes(np.ascontiguousarray(state).tobytes())
        return {_KIND: "array", "dtype": state.dtype.str, "shape": list(state.shape), "is": data}
    if isinstance(state, _PLAIN):
        return {_KIND: "number", "is": to_text(np.asarray(state), where)}
    raise ConfigError(
        f"{where} is a {type(state).__name__}, which a checkpoint cannot hold. It may hold None, "
        "numbers, text, bytes, lists, tuples, dicts, tensors and arrays of numbers."
    )


def from_text(value: Any) -> Any:
    """Return what `to_text` was given."""
    if isinstance(value, list):
        return [from_text(one) for one in value]
    if not isinstance(value, dict):
        return value
    if _KIND not in value:
        return {key: from_text(one) for key, one in value.items()}
    return _READ[value[_KIND]](value)


def _tensor(value: Any) -> torch.Tensor:
    raw = torch.frombuffer(bytearray(_to_bytes(value["is"])) or bytearray(1), dtype=torch.uint8)
    dtype = getattr(torch, value["dtype"])
    if 0 in value["shape"]:
        return torch.empty(value["shape"], dtype=dtype)
    return raw.view(dtype).reshape(value["shape"])


def _array(value: Any) -> Any:
    flat = np.frombuffer(_to_bytes(value["is"]), dtype=np.dtype(value["dtype"]))
    return flat.reshape(value["shape"]).copy()


_READ: Mapping[str, Callable[[Any], Any]] = {
    "float": lambda value: float(value["is"]),
    "tuple": lambda value: tuple(from_text(value["is"])),
    "dict": lambda value: {from_text(key): from_text(one) for key, one in value["is"]},
    "bytes": lambda value: _to_bytes(value["is"]),
    "tensor": _tensor,
    "array": _array,
    "number": lambda value: _array(value["is"])[()],
}


def _from_bytes(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _to_bytes(text: str) -> bytes:
    return base64.b64decode(text)
