"""The part of a Trainer's state that it saves and does not restore by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..rounded_state import restore_rounded

_OPTIMIZER = "optimizer.pt"
"""Under FSDP and DeepSpeed there are other files."""


def restore_callbacks(callbacks: Sequence[Any], saved: Mapping[str, Any]) -> None:
    """Put back where each callback was, such as for how long nothing has improved.

    What the script passes to a callback, such as the patience, counts as it is now.

    Args:
        callbacks: of this start.
        saved: `TrainerState.stateful_callbacks`: by class name what `ExportableState.state`
            returned, or a list of that where there are several of a class.
    """
    for name, found in saved.items():
        entries = found if isinstance(found, list) else [found]
        own = [callback for callback in callbacks if type(callback).__name__ == name]
        for callback, entry in zip(own, entries, strict=False):
            for attribute, value in entry.get("attributes", {}).items():
                setattr(callback, attribute, value)


def restore_optimizer(optimizer: Any, checkpoint: Path) -> None:
    """Put back what torch has rounded when the optimizer loaded a checkpoint's state.

    Args:
        optimizer: Trainer's, which may be wrapped by Accelerate.
        checkpoint: Trainer's folder, from which it has loaded.
    """
    import torch

    inner = getattr(optimizer, "optimizer", optimizer)
    path = checkpoint / _OPTIMIZER
    if isinstance(inner, torch.optim.Optimizer) and path.exists():
        # Of what is mapped only that is read which is put back.
        restore_rounded(inner, torch.load(path, map_location="cpu", weights_only=True, mmap=True))
