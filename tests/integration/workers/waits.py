"""Counts where the host would wait for a device, on one that has none.

On a GPU each of these waits for all that was launched: a number that is read from a tensor, a
tensor that is brought to the host.
"""

import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parents[3]
_OPTIMIZERS = Path(torch.optim.__file__).parent
_PACKAGES = ("launcher", "strategies", "checkpointing")
_READS = {torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.item}
_OF_THE_HOST = {
    ("grad_norm.py", "_square"),  # of gradients on the host, chunk by chunk
    ("late_number.py", "__float__"),  # waits for one point, which is long past
    ("worker_signals.py", "start_shielded"),  # torch's DataLoader draws a seed
}
"""What is read from the host's own memory on a GPU too."""


def place() -> str | None:
    """Return the innermost line of ours, as "file:function"; None: it is nobody's of ours."""
    for frame in reversed(traceback.extract_stack(sys._getframe(2))):
        path = Path(frame.filename)
        if path == Path(__file__):
            continue
        if path.is_relative_to(_OPTIMIZERS):
            return None  # its counters of steps, which are on the host
        if any(path.is_relative_to(ROOT / package) for package in _PACKAGES):
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
        if func is torch.ops.aten._local_scalar_dense.default and (where := place()) is not None:
            self._found[where] += 1
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _READS - {torch.Tensor.item} and (where := place()) is not None:
            self._found[where] += 1
        return func(*args, **(kwargs or {}))


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
