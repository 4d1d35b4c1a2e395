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
    from .boundary.boundary import Agreed as Agreed
    from .boundary.boundary import Boundary as Boundary
    from .boundary.boundary import Report as Report
    from .boundary.decision import Decision as Decision
    from .boundary.decision import Ending as Ending
    from .boundary.decision import Progress as Progress
    from .boundary.decision import decide as decide
    from .boundary.notice_rounds import AgreedNotice as AgreedNotice
    from .boundary.notice_rounds import Look as Look
    from .boundary.notice_rounds import NoticeRounds as NoticeRounds
    from .collectives.own_collectives import OwnCollectives as OwnCollectives
    from .collectives.process_group import HostCommunicator as HostCommunicator
    from .collectives.process_group import Ranks as Ranks
    from .collectives.process_group import process_groups as process_groups
    from .data.batches import BatchPlan as BatchPlan
    from .data.batches import Jump as Jump
    from .data.batches import Turn as Turn
    from .data.batches import assignment as assignment
    from .data.batches import consecutive as consecutive
    from .data.reading.loading import MapDataset as MapDataset
    from .data.reading.loading import to_device as to_device
    from .data.reading.loading import training_batches as training_batches
    from .data.reading.reading import Batches as Batches
    from .data.seeding import SEEDING_RULE as SEEDING_RULE
    from .data.seeding import seed_streams as seed_streams
    from .data.seeding import stream_seed as stream_seed
    from .data.splits import fold_indices as fold_indices
    from .data.splits import split_indices as split_indices
    from .data.streams.streams import SeekableStream as SeekableStream
    from .data.streams.streams import TrainingData as TrainingData
    from .data.streams.streams import is_stream as is_stream
    from .data.streams.streams import samples_of as samples_of
    from .data.weighting import weighted as weighted
    from .data.workers.worker_signals import shield_loader_workers as shield_loader_workers
    from .engine_log import quiet_engines as quiet_engines
    from .errors import ConfigError as ConfigError
    from .errors import DataNotReady as DataNotReady
    from .errors import DesyncError as DesyncError
    from .errors import StrategyError as StrategyError
    from .metrics.sums import Measurement as Measurement
    from .metrics.sums import Metrics as Metrics
    from .metrics.sums import MetricSums as MetricSums
    from .metrics.sums import Tally as Tally
    from .modifiers.batch_norm import RunningStatistics as RunningStatistics
    from .modifiers.ema import EMA as EMA
    from .modifiers.loss_scale import LossScale as LossScale
    from .modifiers.penalty import Penalty as Penalty
    from .modifiers.unfreezing import Unfreezing as Unfreezing
    from .parallel.auto.choose import choose_strategy as choose_strategy
    from .parallel.build_options import BuildOptions as BuildOptions
    from .parallel.build_options import as_patterns as as_patterns
    from .parallel.registry import strategy_class as strategy_class
    from .parallel.state.hyperparameters import current_hyperparameters as current_hyperparameters
    from .parallel.state.hyperparameters import put_in_force as put_in_force
    from .parallel.strategy import Blueprint as Blueprint
    from .parallel.strategy import Parameters as Parameters
    from .parallel.strategy import StepOutcome as StepOutcome
    from .parallel.strategy import Strategy as Strategy
    from .precision import Precision as Precision
    from .precision import precision_for as precision_for
    from .schedules.length import Span as Span
    from .schedules.rates import RateRule as RateRule
    from .schedules.rates import Rates as Rates
    from .schedules.schedule import Factor as Factor
    from .schedules.schedule import Rate as Rate
    from .schedules.schedule import Schedule as Schedule
    from .schedules.torch_schedule import TorchSchedule as TorchSchedule
    from .schedules.torch_schedule import torch_schedule as torch_schedule
    from .state.collect import collect_state as collect_state
    from .state.collect import frozen_fragments as frozen_fragments
    from .state.pretrained import load_weights as load_weights
    from .state.restore import Restored as Restored
    from .state.restore import restore_newest as restore_newest
    from .state.stateful import Objects as Objects
    from .state.stateful import Stateful as Stateful
    from .state.stateful import require_objects as require_objects
    from .state.transformers_names import TransformersNames as TransformersNames
    from .state.views import IMPORTED as IMPORTED
    from .stopping.early_stopping import EarlyStopping as EarlyStopping
    from .stopping.early_stopping import EarlyStoppingState as EarlyStoppingState
    from .stopping.plateau import PlateauState as PlateauState
    from .stopping.plateau import ReduceOnPlateau as ReduceOnPlateau

_NAMES = {
    "boundary.boundary": "Agreed Boundary Report",
    "boundary.decision": "Decision Ending Progress decide",
    "boundary.notice_rounds": "AgreedNotice Look NoticeRounds",
    "collectives.own_collectives": "OwnCollectives",
    "collectives.process_group": "HostCommunicator Ranks process_groups",
    "data.batches": "BatchPlan Jump Turn assignment consecutive",
    "data.reading.loading": "MapDataset to_device training_batches",
    "data.reading.reading": "Batches",
    "data.seeding": "SEEDING_RULE seed_streams stream_seed",
    "data.splits": "fold_indices split_indices",
    "data.streams.streams": "SeekableStream TrainingData is_stream samples_of",
    "data.weighting": "weighted",
    "data.workers.worker_signals": "shield_loader_workers",
    "engine_log": "quiet_engines",
    "errors": "ConfigError DataNotReady DesyncError StrategyError",
    "metrics.sums": "Measurement MetricSums Metrics Tally",
    "modifiers.batch_norm": "RunningStatistics",
    "modifiers.ema": "EMA",
    "modifiers.loss_scale": "LossScale",
    "modifiers.penalty": "Penalty",
    "modifiers.unfreezing": "Unfreezing",
    "parallel.auto.choose": "choose_strategy",
    "parallel.build_options": "BuildOptions as_patterns",
    "parallel.registry": "strategy_class",
    "parallel.state.hyperparameters": "current_hyperparameters put_in_force",
    "parallel.strategy": "Blueprint Parameters StepOutcome Strategy",
    "precision": "Precision precision_for",
    "schedules.length": "Span",
    "schedules.rates": "RateRule Rates",
    "schedules.schedule": "Factor Rate Schedule",
    "schedules.torch_schedule": "TorchSchedule torch_schedule",
    "state.collect": "collect_state frozen_fragments",
    "state.pretrained": "load_weights",
    "state.restore": "Restored restore_newest",
    "state.stateful": "Objects Stateful require_objects",
    "state.transformers_names": "TransformersNames",
    "state.views": "IMPORTED",
    "stopping.early_stopping": "EarlyStopping EarlyStoppingState",
    "stopping.plateau": "PlateauState ReduceOnPlateau",
}
"""By module, what this package exports."""
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}
_MODULES = ("metrics", "schedules")

__all__ = [*sorted(_MODULE_OF), *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
