"""What a training script asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from strategies import (
    Blueprint,
    BuildOptions,
    ConfigError,
    EarlyStopping,
    MapDataset,
    Parameters,
    Schedule,
    as_patterns,
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
    """In steps, epochs or time; leaving saves in any case."""
    keep: int = 3
    """How many of the newest checkpoints stay."""
    stop: EarlyStopping | None = None
    max_grad_norm: float | None = None
    """Clip the norm of the mean gradient over all parameters to this."""
    workers: int = 0
    """Loader processes of each rank."""
    log_every: int = 10
    """Optimizer steps between two lines of metrics.jsonl and of the console."""
    shard_blocks: str | tuple[str, ...] = ()
    """Blocks that fsdp shards on their own, such as "layers.*", or names of classes; left out:
    the repeated modules. --shard-blocks goes before it."""
    hybrid_shard: bool = False
    """Under fsdp: shard inside a node and replicate over the nodes; or --hybrid-shard."""
    checkpoint_blocks: bool | str | tuple[str, ...] = False
    """Compute the activations of blocks again in the backward, to save their memory."""
    compile_blocks: bool | str | tuple[str, ...] = False
    """Compile blocks with torch.compile."""
    offload: bool = False
    """Under fsdp, on GPUs: keep parameters, gradients and optimizer state on the host."""
    init: str = "as-built"
    """ "as-built": the model's factory fills the parameters, on every rank all of them. "by-name":
    the model is built without memory, under fsdp sharded, and then filled; each parameter from a
    stream of random numbers of its own, so that the start is the same under every strategy, and
    another than as built."""
    forward: Callable[[Any, Any], Any] | None = None
    """(model, batch) -> the outputs or the loss: how --strategy auto calls the model to measure
    what activations need; None: it tries the usual ways."""
    weights: str | Path | None = None
    """Where a new run takes its weights from: a safetensors file, or a folder with one or with
    Hugging Face's index. Names and shapes must be the model's."""

    def __post_init__(self) -> None:
        for name in ("keep", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.workers < 0:
            raise ConfigError(f"workers={self.workers} must not be negative.")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm={self.max_grad_norm} must be above 0, or None.")

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

    def blueprint(self, run: Run) -> Blueprint:
        """Return what a strategy is built from."""
        return Blueprint(
            model=self.model,
            optimizer=self.optimizer,
            precision=run.precision,
            max_grad_norm=self.max_grad_norm,
            seed=run.seed,
            ranks=run.ranks,
            options=self.build_options(run),
        )

    def build_options(self, run: Run) -> BuildOptions:
        """Return how to build the model; the command line goes before the script."""
        asked = run.environment
        blocks = as_patterns(asked.shard_blocks or self.shard_blocks)
        return BuildOptions(
            shard_blocks=blocks if isinstance(blocks, tuple) else (),
            hybrid_shard=asked.hybrid_shard or self.hybrid_shard,
            local_world_size=asked.local_world_size,
            checkpoint_blocks=as_patterns(self.checkpoint_blocks),
            compile_blocks=as_patterns(self.compile_blocks),
            offload=self.offload,
            init=self.init,
        )
