"""The part of a Trainer's state that it saves and does not restore by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


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
