"""Counts where the host would wait for a device, on one that has none.

On a GPU each of these waits for all that was launched: a number that is read from a tensor, a
result whose shape depends on values, a tensor that is brought to the host, and one that is made of
the host's numbers on the device, which is copied from memory that is not pinned. Waits for an event
or a stream are not seen here: test_waits.py finds them in the sources.
"""

import sys
import traceback
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[3]
_HERE = Path(__file__).parent
_COUNTERS = ("waits.py", "two_places.py", "pretended_cuda.py", "pretended_deepspeed.py")
_OPTIMIZERS = Path(torch.optim.__file__).parent
_PACKAGES = ("launcher", "strategies", "checkpointing")
_aten = torch.ops.aten
_SHAPED_BY_VALUES = {
    *(_aten.nonzero.default, _aten.masked_select.default, _aten.equal.default),
    *(_aten._unique2.default, _aten.unique_dim.default, _aten.unique_consecutive.default),
    *(_aten.repeat_interleave.Tensor, _aten.bincount.default),
}
_READS = {torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.__array__}
_MASKS = (torch.bool, torch.uint8)
_MAKES = {torch.tensor, torch.as_tensor, torch.asarray}
_OF_THE_HOST = {
    ("grad_norm.py", "_square"),  # of gradients on the host, chunk by chunk
    ("late_number.py", "__init__"),  # numbers of the host
    ("late_number.py", "read"),  # whose event is long past
    ("worker_signals.py", "start_shielded"),  # torch's DataLoader draws a seed
}
"""What is read from the host's own memory on a GPU too."""


def place(*, besides: str = "") -> str | None:
    """Return the innermost line of ours, as "file:function"; None: it is nobody's of ours.

    Args:
        besides: a file whose lines do not count.
    """
    for frame in reversed(traceback.extract_stack(sys._getframe(2))):
        path = Path(frame.filename)
        if path.parent == _HERE and path.name in _COUNTERS:
            continue
        if path.is_relative_to(_OPTIMIZERS):
            return None  # its counters of steps, which are on the host
        if any(path.is_relative_to(ROOT / package) for package in _PACKAGES):
            if path.name == besides:
                continue
            if (path.name, frame.name) in _OF_THE_HOST:
                return None
            return f"{path.name}:{frame.name}"
        if path.is_relative_to(ROOT / "tests"):
            return None
    return None


class _Scalars(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if _waits_for_values(func, args) and (where := place()) is not None:
            self._found[where] += 1
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if _brings(func, args, kwargs or {}) and (where := place()) is not None:
            self._found[where] += 1
        return func(*args, **(kwargs or {}))


def _waits_for_values(func: Any, args: tuple[Any, ...]) -> bool:
    """Return whether the host must know values to carry out an operation, below autograd."""
    if func is _aten._local_scalar_dense.default or func in _SHAPED_BY_VALUES:
        return True
    if func is not _aten.index.Tensor:
        return False
    return any(index is not None and index.dtype in _MASKS for index in args[1])


def _brings(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a function copies between host and device, and waits for that."""
    if func in _READS:
        return True
    if func in _MAKES:
        return kwargs.get("device") is not None
    if func is not torch.Tensor.to or kwargs.get("non_blocking"):
        return False
    # By its text alone: a run's own device is the CPU here.
    return any(isinstance(one, str) for one in (*args[1:], *kwargs.values()))


class Waits:
    """Counts within `with`; `found` has them by place."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self._modes: list[Any] = []

    def __enter__(self) -> "Waits":
        self._modes = [_Scalars(self.found), _Reads(self.found)]
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)
