"""Processes and the run: the `relaunch` command, its ranks, signals and reports; and `Run`.

`Run` is imported when it is first used, so that the command line starts without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .job import Job as Job
    from .run import Run as Run
    from .step import Step as Step

__all__ = ["Job", "Run", "Step"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{name.lower()}", __name__), name)
