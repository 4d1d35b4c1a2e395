"""What a training script asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from checkpointing import Retention
from strategies import (
    EMA,
    BatchPlan,
    Blueprint,
    BuildOptions,
    ConfigError,
    EarlyStopping,
    MapDataset,
    Objects,
    Parameters,
    Penalty,
    RateRule,
    Rates,
    ReduceOnPlateau,
    Span,
    TrainingData,
    as_patterns,
    is_stream,
    require_objects,
    schedules,
)
from strategies.data.options import Loading
from strategies.data.reading.samples import Collate
from strategies.data.streams.own_position import OwnPosition, require_readable
from strategies.data.streams.streams import has_own_position
from strategies.data.workers.worker_signals import shield_workers_of

from ..context import RunContext
from .interval import Every, parse_every
from .measure import Measure
from .tracker_names import check_trackers

NAME = "name"
FROZEN = ("copy", NAME)
_FACTORIES = {
    "model": "model=lambda: Net(...)",
    "optimizer": "optimizer=lambda parameters: AdamW(parameters, lr=...)",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The arguments of `Run.prepare`; docs/reference.md has them with examples."""

    model: Callable[[], nn.Module]
    """Builds the model, in float32; called under the run's seed."""
    optimizer: Callable[[Parameters], torch.optim.Optimizer]
    """Builds the optimizer from the parameters it is given, which may already be sharded."""
    train: TrainingData
    """A map-style data set, a stream that can seek (`strategies.SeekableStream`), or a stream that
    keeps its position (state_dict and load_state_dict; see docs/data.md)."""
    global_batch: int
    """Samples in one optimizer step over all ranks; independent of the number of ranks."""
    micro_batch: int
    """Samples in one forward and backward pass of one rank; it must divide `global_batch`."""
    epochs: int | None = None
    """Passes over the data set. Give either `epochs` or `steps`."""
    steps: int | None = None
    """Optimizer steps of the whole run. Required for streams."""
    schedule: RateRule = field(default_factory=schedules.constant)
    """Learning rate as a function of the step: one schedule, a list or dict with one schedule per
    parameter group, or `torch_schedule(...)`."""
    plateau: ReduceOnPlateau | None = None
    """Reduces the learning rate further when a metric stops improving."""
    evaluate_every: str = "1 epoch"
    """Interval at which `step.evaluation_due` is true, in steps or epochs. It is always true at the
    last step."""
    save_every: str = "5 min"
    """Interval between checkpoints, in steps, epochs or time, or "auto": computed from the measured
    cost of a save and the failure rate. A preempted run saves in any case."""
    keep: int = 3
    """Number of newest checkpoints to keep."""
    keep_every: str | None = None
    """In steps or epochs: keep the first checkpoint of each such interval permanently."""
    keep_best: int = 0
    """Number of checkpoints to keep with the best value of the metric that `stop` monitors."""
    objects: Objects = field(default_factory=dict)
    """Your own objects to store in the checkpoint, by name. Each has `state()`, which returns JSON
    and tensors, and `restore(state)`."""
    stop: EarlyStopping | None = None
    """Early stopping."""
    max_grad_norm: float | None = None
    """Clips the norm of the mean gradient over all parameters to this value."""
    workers: int = 0
    """Loader processes per rank. 0: the rank reads the data itself."""
    collate: Collate | None = None
    """Function from a list of samples to a batch, for training, and for evaluations that have no
    other. None: torch's default_collate. Random numbers in it follow the seed."""
    evaluation_collate: Collate | None = None
    """The same for evaluations and tests. None: `collate` is used."""
    worker_init: Callable[[int], object] | None = None
    """Called in each loader process with its number, before it reads."""
    prefetch: int | None = None
    """Micro-batches that each loader process reads ahead. None: torch's default, 2."""
    persistent: bool = False
    """Keep the loader processes of an evaluation alive until the next evaluation of the same data
    set. Those of the training live until its end in any case."""
    penalty: Penalty | None = None
    """L1 and L2 penalty on the weights."""
    ema: EMA | None = None
    """Keep a moving average of the weights, in every checkpoint and for job.export("ema")."""
    unfreeze: Mapping[str, int] = field(default_factory=dict)
    """Name patterns and the step from which the matching parameters are trained, such as
    {"backbone.*": 500}."""
    max_skipped: int = 25
    """After this many steps in a row with non-finite gradients, roll back to the newest checkpoint
    from before and skip the data since. fp16's loss scale may need about twenty steps to come down
    from its start."""
    accelerator: Any = None
    """Your `accelerate.Accelerator`, for --strategy accelerate."""
    log_every: int = 10
    """Optimizer steps between two records of metrics.jsonl."""
    digest_every: int | None = None
    """Record a digest of all weights in metrics.jsonl after every that many optimizer steps, and at
    every evaluation and save. None: with --exact at evaluations and saves, else never."""
    shard_blocks: str | tuple[str, ...] = ()
    """Blocks that fsdp shards separately: name patterns such as "layers.*", or class names.
    Default: the repeated modules. --shard-blocks takes precedence."""
    hybrid_shard: bool = False
    """Under fsdp: shard within a node and replicate across nodes; also --hybrid-shard."""
    checkpoint_blocks: bool | str | tuple[str, ...] = False
    """Activation checkpointing: recompute the activations of blocks in the backward pass."""
    compile_blocks: bool | str | tuple[str, ...] = False
    """Compile blocks with torch.compile."""
    offload: bool = False
    """Under fsdp and ZeRO, on GPUs: keep master weights, gradients and optimizer state in host
    memory."""
    track: Sequence[Any] | None = None
    """Trackers: names of Accelerate's trackers such as "wandb", or objects. None: TensorBoard, if
    it is installed."""
    init: str = "as-built"
    """ "as-built": the model's function fills the parameters; every rank builds the whole model.
    "by-name": the model is built without memory, sharded under fsdp, and then filled, each
    parameter from its own stream of random numbers. The initial weights are then the same under
    every strategy, and differ from those of "as-built"."""
    forward: Callable[[Any, Any], Any] | None = None
    """(model, batch) -> outputs or loss: how --strategy auto calls the model to measure
    activations. None: it tries the usual ways."""
    validate: MapDataset | None = None
    """Data for `step.evaluate()`. With it, `measure` is tried before the first step."""
    measure: Measure | None = None
    """(model, batch) -> {metric: one value per sample}, used by `step.evaluate()`."""
    weights: str | Path | None = None
    """Initial weights of a new run: a safetensors file, or a folder with one or with Hugging Face's
    index. Names and shapes must match the model. A resumed run reads its checkpoint instead;
    with frozen parameters it refuses weights that differ from those that the run began with (by
    SHA-256, wherever they lie)."""
    frozen: str = "copy"
    """ "copy": the first save copies the frozen parameters, and later checkpoints name that copy.
    "name": checkpoints name those that are in the files of `weights`, bit for bit, and copy only
    the others. Such checkpoints need these files, unaltered, wherever `weights` finds them."""

    def __post_init__(self) -> None:
        for name in ("keep", "log_every", "max_skipped", "digest_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1.")
        if self.keep_best < 0 or (self.keep_best and self.stop is None):
            raise ConfigError(
                f"keep_best={self.keep_best} needs a number from 0 on, and stop=EarlyStopping(...) "
                "to name the metric."
            )
        if self.frozen not in FROZEN:
            raise ConfigError(f'frozen={self.frozen!r} must be "copy" or "name".')
        if self.frozen == NAME and self.weights is None:
            raise ConfigError(
                'frozen="name" lets checkpoints name the files of weights=, and none are given. '
                'Pass weights=, or leave frozen="name" out: frozen parameters are then copied once.'
            )
        check_trackers(self.track)
        self.loading()
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigError(f"max_grad_norm={self.max_grad_norm} must be above 0, or None.")
        require_objects(self.objects)
        if self.validate is not None and self.measure is None:
            raise ConfigError(
                "there is data to evaluate (validate=) and no measure. Pass "
                'measure=(model, batch) -> {"loss": one value a sample}.'
            )
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(
                f"epochs={self.epochs} and steps={self.steps}: give one of the two, the length of "
                "the whole run."
            )
        if is_stream(self.train) and self.steps is None:
            raise ConfigError(
                f"train is a stream ({type(self.train).__name__}), which has no epochs. "
                "Give the length of the run as steps=."
            )
        for name, value in (("model", self.model), ("optimizer", self.optimizer)):
            if isinstance(value, Mapping | list | tuple):
                raise ConfigError(
                    f"{name}= is a {type(value).__name__} of {len(value)}, and run.prepare trains "
                    "one model with one optimizer. Keep several (a GAN, an actor and a critic, a "
                    f"teacher) in a loop of your own: launcher.Resumable({name}=...) takes them by "
                    "name, saves and resumes each."
                )
            if isinstance(value, nn.Module | torch.optim.Optimizer):
                raise ConfigError(
                    f"{name}= is a {type(value).__name__} that was made already, and sharding "
                    f"comes first. Pass a function that makes it: {_FACTORIES[name]}."
                )

    def loading(self) -> Loading:
        """Return how data is read.

        Raises:
            ConfigError: something in it cannot work.
        """
        return Loading(
            workers=self.workers,
            collate=self.collate,
            worker_init=self.worker_init,
            prefetch=self.prefetch,
            persistent=self.persistent,
        )

    def plan(self, samples: MapDataset, seed: int) -> BatchPlan:
        """Return how the training data is cut into optimizer steps."""
        if len(samples) == 0:
            raise ConfigError(f"train= is a {type(self.train).__name__} without samples.")
        reached = -(-(self.steps or 0) * self.global_batch // len(samples))
        return BatchPlan(
            num_samples=len(samples),
            global_batch=self.global_batch,
            micro_batch=self.micro_batch,
            epochs=max(1, reached) if self.epochs is None else self.epochs,
            steps=self.steps,
            in_order=is_stream(self.train),
            seed=seed,
        )

    def own_position(self, run: RunContext) -> OwnPosition | None:
        """Return the training data where it keeps its position itself.

        Raises:
            ConfigError: it cannot be read so.
        """
        if not has_own_position(self.train):
            return None
        shield_workers_of(self.train)
        require_readable(
            self.train,
            global_batch=self.global_batch,
            micro_batch=self.micro_batch,
            workers=self.workers,
            world_size=run.ranks.world_size,
        )
        ranks = run.ranks
        return OwnPosition(self.train, seed=run.seed, rank=ranks.rank, world_size=ranks.world_size)

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

    def rates(self, groups: Sequence[Mapping[str, Any]], plan: BatchPlan) -> Rates:
        """Return the learning rates of the optimizer's parameter groups at each step.

        Raises:
            ConfigError: the schedule does not suit the groups or the length of the run.
        """
        span = Span(total_steps=plan.total_steps, steps_per_epoch=plan.steps_per_epoch)
        return Rates(self.schedule, groups, span)

    def blueprint(self, run: RunContext, strategy: str) -> Blueprint:
        """Return what a strategy of this name is built from; "auto": what one is chosen by.

        Raises:
            ConfigError: something was given that the run's strategy would not use.
        """
        if self.accelerator is not None and strategy != "accelerate":
            raise ConfigError(
                f"accelerator= was given, and strategy={strategy} would not use it. "
                "Pass --strategy accelerate, or leave it out."
            )
        if run.exact and run.precision.needs_loss_scaling:
            raise ConfigError(
                "--exact cannot be done in fp16, whose loss scale follows from what each rank "
                "counts. Use --precision bf16 or fp32."
            )
        return Blueprint(
            model=self.model,
            optimizer=self.optimizer,
            precision=run.precision,
            max_grad_norm=self.max_grad_norm,
            seed=run.seed,
            ranks=run.ranks,
            options=self.build_options(run),
            penalty=self.penalty,
            ema=self.ema,
            unfreeze=self.unfreeze,
            accelerator=self.accelerator,
        )

    def build_options(self, run: RunContext) -> BuildOptions:
        """Return how to build the model; the command line goes before the script."""
        asked = run.environment.run
        blocks = as_patterns(asked.shard_blocks or self.shard_blocks)
        return BuildOptions(
            shard_blocks=blocks if isinstance(blocks, tuple) else (),
            hybrid_shard=asked.hybrid_shard or self.hybrid_shard,
            local_world_size=run.environment.local_world_size,
            checkpoint_blocks=as_patterns(self.checkpoint_blocks),
            compile_blocks=as_patterns(self.compile_blocks),
            offload=self.offload,
            exact=run.exact,
            init=self.init,
        )
