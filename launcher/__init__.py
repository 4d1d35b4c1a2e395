"""Processes and the run: the `relaunch` command, its ranks, signals and reports; and `Run`.

`Run` is imported when it is first used, so that the command line starts without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contract.files.heartbeat import beat as beat
    from .training.loop.job import Job as Job
    from .training.loop.steps.step import Step as Step
    from .training.own_loop.data.global_batches import GlobalBatches as GlobalBatches
    from .training.own_loop.resumable import Resumable as Resumable
    from .training.recipe.script_config import config_from_file as config_from_file
    from .training.run import Run as Run

_MODULE_OF = {
    "GlobalBatches": ".training.own_loop.data.global_batches",
    "Job": ".training.loop.job",
    "Resumable": ".training.own_loop.resumable",
    "Run": ".training.run",
    "Step": ".training.loop.steps.step",
    "beat": ".contract.files.heartbeat",
    "config_from_file": ".training.recipe.script_config",
}

__all__ = ["GlobalBatches", "Job", "Resumable", "Run", "Step", "beat", "config_from_file"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULE_OF[name], __name__), name)
