"""What one training step is: strategies, canonical batches, agreement, early stopping, schedules.

Names are imported when they are first used: the command line needs a few of this package's tables
and must not pay for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import metrics as metrics
    from . import schedules as schedules
    from .average import EMA as EMA
    from .batches import BatchPlan as BatchPlan
    from .batches import Jump as Jump
    from .batches import Turn as Turn
    from .batches import assignment as assignment
    from .batches import consecutive as consecutive
    from .boundary import Agreed as Agreed
    from .boundary import Boundary as Boundary
    from .boundary import Report as Report
    from .data.reading import Batches as Batches
    from .data.worker_signals import shield_loader_workers as shield_loader_workers
    from .decision import Decision as Decision
    from .decision import Ending as Ending
    from .decision import Progress as Progress
    from .decision import decide as decide
    from .driven_schedule import TorchSchedule as TorchSchedule
    from .driven_schedule import torch_schedule as torch_schedule
    from .early_stopping import EarlyStopping as EarlyStopping
    from .early_stopping import EarlyStoppingState as EarlyStoppingState
    from .errors import ConfigError as ConfigError
    from .errors import DataNotReady as DataNotReady
    from .errors import DesyncError as DesyncError
    from .errors import StrategyError as StrategyError
    from .hyperparameters import current_hyperparameters as current_hyperparameters
    from .hyperparameters import merge as merge
    from .hyperparameters import put_in_force as put_in_force
    from .imported import IMPORTED as IMPORTED
    from .lengths import Span as Span
    from .loading import MapDataset as MapDataset
    from .loading import evaluation_batches as evaluation_batches
    from .loading import to_device as to_device
    from .loading import training_batches as training_batches
    from .loss_scale import LossScale as LossScale
    from .metric_sums import Measurement as Measurement
    from .metric_sums import MetricSums as MetricSums
    from .metric_sums import Tally as Tally
    from .notice_rounds import AgreedNotice as AgreedNotice
    from .notice_rounds import Look as Look
    from .notice_rounds import NoticeRounds as NoticeRounds
    from .objects import Objects as Objects
    from .objects import Stateful as Stateful
    from .objects import require_objects as require_objects
    from .parallel.build_options import BuildOptions as BuildOptions
    from .parallel.build_options import as_patterns as as_patterns
    from .parallel.choosing import choose_strategy as choose_strategy
    from .parallel.protocol import Blueprint as Blueprint
    from .parallel.protocol import Parameters as Parameters
    from .parallel.protocol import StepOutcome as StepOutcome
    from .parallel.protocol import Strategy as Strategy
    from .parallel.table import strategy_class as strategy_class
    from .penalty import Penalty as Penalty
    from .plateau import PlateauState as PlateauState
    from .plateau import ReduceOnPlateau as ReduceOnPlateau
    from .precision import Precision as Precision
    from .precision import precision_for as precision_for
    from .pretrained import load_weights as load_weights
    from .process_group import HostCommunicator as HostCommunicator
    from .process_group import Ranks as Ranks
    from .process_group import process_groups as process_groups
    from .rates import RateRule as RateRule
    from .rates import Rates as Rates
    from .running_statistics import RunningStatistics as RunningStatistics
    from .schedule import Factor as Factor
    from .schedule import Rate as Rate
    from .schedule import Schedule as Schedule
    from .seeding import SEEDING_RULE as SEEDING_RULE
    from .seeding import seed_streams as seed_streams
    from .seeding import stream_seed as stream_seed
    from .splits import fold_indices as fold_indices
    from .splits import split_indices as split_indices
    from .streams import SeekableStream as SeekableStream
    from .streams import TrainingData as TrainingData
    from .streams import is_stream as is_stream
    from .streams import samples_of as samples_of
    from .time_left import TimeLeft as TimeLeft
    from .training_state import Restored as Restored
    from .training_state import collect_state as collect_state
    from .training_state import restore_newest as restore_newest
    from .unfreezing import Unfreezing as Unfreezing
    from .weighting import weighted as weighted

_HOME = {
    "Agreed": "boundary",
    "AgreedNotice": "notice_rounds",
    "BatchPlan": "batches",
    "Batches": "data.reading",
    "Blueprint": "parallel.protocol",
    "Boundary": "boundary",
    "BuildOptions": "parallel.build_options",
    "ConfigError": "errors",
    "DataNotReady": "errors",
    "Decision": "decision",
    "DesyncError": "errors",
    "EMA": "average",
    "EarlyStopping": "early_stopping",
    "EarlyStoppingState": "early_stopping",
    "Ending": "decision",
    "Factor": "schedule",
    "HostCommunicator": "process_group",
    "IMPORTED": "imported",
    "Jump": "batches",
    "Look": "notice_rounds",
    "LossScale": "loss_scale",
    "MapDataset": "loading",
    "Measurement": "metric_sums",
    "MetricSums": "metric_sums",
    "NoticeRounds": "notice_rounds",
    "Objects": "objects",
    "Parameters": "parallel.protocol",
    "Penalty": "penalty",
    "PlateauState": "plateau",
    "Precision": "precision",
    "Progress": "decision",
    "Ranks": "process_group",
    "Rate": "schedule",
    "RateRule": "rates",
    "Rates": "rates",
    "ReduceOnPlateau": "plateau",
    "Report": "boundary",
    "Restored": "training_state",
    "RunningStatistics": "running_statistics",
    "SEEDING_RULE": "seeding",
    "Schedule": "schedule",
    "SeekableStream": "streams",
    "Span": "lengths",
    "Stateful": "objects",
    "StepOutcome": "parallel.protocol",
    "Strategy": "parallel.protocol",
    "StrategyError": "errors",
    "Tally": "metric_sums",
    "TimeLeft": "time_left",
    "TorchSchedule": "driven_schedule",
    "TrainingData": "streams",
    "Turn": "batches",
    "Unfreezing": "unfreezing",
    "as_patterns": "parallel.build_options",
    "assignment": "batches",
    "choose_strategy": "parallel.choosing",
    "collect_state": "training_state",
    "consecutive": "batches",
    "current_hyperparameters": "hyperparameters",
    "decide": "decision",
    "evaluation_batches": "loading",
    "fold_indices": "splits",
    "is_stream": "streams",
    "load_weights": "pretrained",
    "merge": "hyperparameters",
    "precision_for": "precision",
    "process_groups": "process_group",
    "put_in_force": "hyperparameters",
    "require_objects": "objects",
    "restore_newest": "training_state",
    "samples_of": "streams",
    "seed_streams": "seeding",
    "shield_loader_workers": "data.worker_signals",
    "split_indices": "splits",
    "strategy_class": "parallel.table",
    "stream_seed": "seeding",
    "to_device": "loading",
    "torch_schedule": "driven_schedule",
    "training_batches": "loading",
    "weighted": "weighting",
}
_MODULES = ("metrics", "schedules")

__all__ = [*sorted(_HOME), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
