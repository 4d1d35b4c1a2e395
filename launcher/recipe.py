"""What a training script asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from checkpointing import Retention
from strategies import (
    Blueprint,
    ConfigError,
    EarlyStopping,
    MapDataset,
    Objects,
    Parameters,
    Schedule,
    require_objects,
    schedules,
)

from .every import Every, parse_every

if TYPE_CHECKING:
    from .run import Run


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The arguments of `Run.prepare`."""

    model: Callable[[], nn.Module]
    """Builds the model, in float32; called under the run's seed."""
    optimizer: Callable[[Parameters], torch.optim.Optimizer]
    """Builds the optimizer from the parameters it is given, which may be sharded already."""
    train: MapDataset
    """A map-style data set."""
    global_batch: int
    """Samples in one optimizer step over all ranks. It never changes with the number of GPUs."""
    micro_batch: int
    """Samples in one forward and backward of one rank; it must divide `global_batch`."""
    epochs: int
    schedule: Schedule = field(default_factory=schedules.constant)
    """Factor on the optimizer's learning rates, as a function of the step."""
    evaluate_every: str = "1 epoch"
    """When `step.evaluation_due` is true, in steps or epochs; it is at the last step in any case.
    """
    save_every: str = "5 min"
    """In steps, epochs or time, or "auto": from what a save is seen to cost and how often the run
    is seen to fail. Leaving saves in any case."""
    keep: int = 3
    """How many of the newest checkpoints stay."""
    keep_every: str | None = None
    """In steps or epochs: of each such stretch the first checkpoint stays for good."""
    keep_best: int = 0
    """How many of the checkpoints with the best value of what `stop` monitors stay."""
    objects: Objects = field(default_factory=dict)
    """Your own objects whose state belongs to the run, by name: each with `state()`, which returns
    JSON and tensors, and `restore(state)`."""
    stop: EarlyStopping | None = None
    max_grad_norm: float | None = None
    """Clip the norm of the mean gradient over all parameters to this."""
    workers: int = 0
    """Loader processes of each rank."""
    log_every: int = 10
    """Optimizer steps between two lines of metrics.jsonl and of the console."""

    def __post_init__(self) -> None:
        for name in ("keep", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.keep_best < 0 or (self.keep_best and self.stop is None):
            raise ConfigError(
                f"keep_best={self.keep_best} needs a number from 0 on, and stop=EarlyStopping(...) "
                "to name the metric."
            )
        if self.workers < 0:
            raise ConfigError(f"workers={self.workers} must not be negative.")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm={self.max_grad_norm} must be above 0, or None.")
        require_objects(self.objects)

    def intervals(self, steps_per_epoch: int) -> tuple[Every, Every]:
        """Return (evaluate_every, save_every).

        Raises:
            ConfigError: one is no interval, or evaluations are asked for by time.
        """
        evaluate = parse_every(
            self.evaluate_every, name="evaluate_every", steps_per_epoch=steps_per_epoch
        )
        if evaluate.steps is None:
            raise ConfigError(
                f'evaluate_every="{self.evaluate_every}" must be in steps or epochs: evaluations '
                "decide when to stop, and clocks differ from run to run."
            )
        save = parse_every(self.save_every, name="save_every", steps_per_epoch=steps_per_epoch)
        return evaluate, save

    def retention(self, steps_per_epoch: int) -> Retention:
        """Return which checkpoints stay.

        Raises:
            ConfigError: keep_every is no interval of steps.
        """
        if self.keep_every is None:
            return Retention(keep=self.keep, keep_best=self.keep_best)
        every = parse_every(self.keep_every, name="keep_every", steps_per_epoch=steps_per_epoch)
        if every.steps is None:
            raise ConfigError(f'keep_every="{self.keep_every}" must be in steps or epochs.')
        return Retention(keep=self.keep, keep_every_steps=every.steps, keep_best=self.keep_best)

    def blueprint(self, run: Run) -> Blueprint:
        """Return what a strategy is built from."""
        return Blueprint(
            model=self.model,
            optimizer=self.optimizer,
            precision=run.precision,
            max_grad_norm=self.max_grad_norm,
            seed=run.seed,
            ranks=run.ranks,
        )
