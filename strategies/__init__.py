"""What one training step is: strategies, canonical batches, agreement, early stopping, schedules.

Names are imported when they are first used: the command line needs a few of this package's tables
and must not pay for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import schedules as schedules
    from .batches import BatchPlan as BatchPlan
    from .batches import Turn as Turn
    from .batches import assignment as assignment
    from .batches import consecutive as consecutive
    from .boundary import Agreed as Agreed
    from .boundary import Boundary as Boundary
    from .boundary import Report as Report
    from .decision import Decision as Decision
    from .decision import Ending as Ending
    from .decision import Progress as Progress
    from .decision import decide as decide
    from .early_stopping import EarlyStopping as EarlyStopping
    from .early_stopping import EarlyStoppingState as EarlyStoppingState
    from .errors import ConfigError as ConfigError
    from .errors import DesyncError as DesyncError
    from .errors import StrategyError as StrategyError
    from .hyperparameters import current_hyperparameters as current_hyperparameters
    from .hyperparameters import merge as merge
    from .hyperparameters import put_in_force as put_in_force
    from .imported import IMPORTED as IMPORTED
    from .loading import MapDataset as MapDataset
    from .loading import evaluation_batches as evaluation_batches
    from .loading import to_device as to_device
    from .loading import training_batches as training_batches
    from .loss_scale import LossScale as LossScale
    from .metrics import Measurement as Measurement
    from .metrics import MetricSums as MetricSums
    from .objects import Objects as Objects
    from .objects import Stateful as Stateful
    from .objects import require_objects as require_objects
    from .parallel.protocol import Blueprint as Blueprint
    from .parallel.protocol import Parameters as Parameters
    from .parallel.protocol import StepOutcome as StepOutcome
    from .parallel.protocol import Strategy as Strategy
    from .parallel.table import strategy_class as strategy_class
    from .precision import Precision as Precision
    from .precision import precision_for as precision_for
    from .process_group import HostCommunicator as HostCommunicator
    from .process_group import Ranks as Ranks
    from .process_group import process_groups as process_groups
    from .running_statistics import RunningStatistics as RunningStatistics
    from .schedules import Schedule as Schedule
    from .seeding import SEEDING_RULE as SEEDING_RULE
    from .seeding import seed_streams as seed_streams
    from .seeding import stream_seed as stream_seed
    from .splits import split_indices as split_indices
    from .training_state import Restored as Restored
    from .training_state import collect_state as collect_state
    from .training_state import restore_newest as restore_newest

_HOME = {
    "Agreed": "boundary",
    "BatchPlan": "batches",
    "Blueprint": "parallel.protocol",
    "Boundary": "boundary",
    "ConfigError": "errors",
    "Decision": "decision",
    "DesyncError": "errors",
    "EarlyStopping": "early_stopping",
    "EarlyStoppingState": "early_stopping",
    "Ending": "decision",
    "HostCommunicator": "process_group",
    "IMPORTED": "imported",
    "LossScale": "loss_scale",
    "MapDataset": "loading",
    "Measurement": "metrics",
    "MetricSums": "metrics",
    "Objects": "objects",
    "Parameters": "parallel.protocol",
    "Precision": "precision",
    "Progress": "decision",
    "Ranks": "process_group",
    "Report": "boundary",
    "Restored": "training_state",
    "RunningStatistics": "running_statistics",
    "SEEDING_RULE": "seeding",
    "Schedule": "schedules",
    "Stateful": "objects",
    "StepOutcome": "parallel.protocol",
    "Strategy": "parallel.protocol",
    "StrategyError": "errors",
    "Turn": "batches",
    "assignment": "batches",
    "collect_state": "training_state",
    "consecutive": "batches",
    "decide": "decision",
    "evaluation_batches": "loading",
    "current_hyperparameters": "hyperparameters",
    "merge": "hyperparameters",
    "precision_for": "precision",
    "process_groups": "process_group",
    "put_in_force": "hyperparameters",
    "require_objects": "objects",
    "restore_newest": "training_state",
    "seed_streams": "seeding",
    "split_indices": "splits",
    "strategy_class": "parallel.table",
    "stream_seed": "seeding",
    "to_device": "loading",
    "training_batches": "loading",
}
_MODULES = ("schedules",)

__all__ = [*sorted(_HOME), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
