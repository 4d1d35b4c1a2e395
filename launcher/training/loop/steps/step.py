"""One optimizer step, as the training loop sees it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Protocol, SupportsFloat

import torch

from strategies import (
    AgreedNotice,
    ConfigError,
    MapDataset,
    Metrics,
    Ranks,
    RunningStatistics,
    StepOutcome,
    Strategy,
    Turn,
    seed_streams,
    stream_seed,
    to_device,
)
from strategies.boundary.boundary import Carried
from strategies.collectives.late_number import LateNumber
from strategies.collectives.order_free import LOSS_UNIT, rounded
from strategies.data.reading.samples import Collate
from strategies.data.seeding import AFTER_LAST_MICRO_BATCH, UPDATE

from ...recipe.arguments import refuse_unknown
from ...recipe.measure import Measure
from ...recipe.recipe import Recipe
from ..evaluation import required
from ..trial import Trial
from .kernel_check import KernelCheck
from .loss_checks import (
    bypass_text,
    is_mean,
    mean_text,
    require_finite,
    require_gradient,
    require_number,
)


class StepOwner(Protocol):
    """What a step needs of its run."""

    strategy: Strategy
    ranks: Ranks
    statistics: RunningStatistics
    recipe: Recipe
    trial: Trial | None
    """What observes the steps of a trial."""
    kernels: KernelCheck

    def next_batch(self) -> tuple[Any, bool]:
        """Return the next micro-batch, on the host, and whether it is the one that was asked for.

        It is not after a preemption notice, where the data does not come: then it is a repeat, with
        which this rank takes part in what the others do, and the step is given up.
        """

    def begin_round(self) -> None:
        """Start to ask the other ranks for notices. Called on every rank, before a forward."""

    def end_round(self) -> AgreedNotice | None:
        """Return what was answered, if this is the time. Called on every rank, after it."""

    def carry(self, count: float) -> Callable[[], Carried]:
        """Start to sum the samples of the step over the ranks."""

    def first_loss_scale(self, counted: float) -> float:
        """Return the scale of a run's first step, the same on every rank. Called on every rank.

        Args:
            counted: by this rank in its first micro-batch.
        """

    def before_update(self) -> None:
        """Return once the state may change."""

    def note_trained(self) -> None:
        """Note that this start has completed a step."""

    def evaluate(
        self, step: Step, dataset: MapDataset, measure: Measure, name: str, collate: Collate | None
    ) -> Metrics:
        """See `Step.evaluate`."""

    def give_up(self, step: Step) -> NoReturn:
        """Save the step before and leave. Called on every rank."""

    def left(self, what: str) -> str | None:
        """Note that the script has left the step's loop; return the sentence about it, if any."""

    def warn(self, sentence: str) -> None:
        """Print a warning."""

    def note(self, sentence: str) -> None:
        """Tell what the run has found out about itself. Called on every rank."""


class Step:
    """One optimizer step. Iterating over it yields this rank's micro-batches on the device.

    The parameters are updated after the last one.

    for x, y in step:
        loss = F.cross_entropy(model(x), y, reduction="sum")
        step.backward(loss, count=len(y))
    """

    def __init__(
        self,
        *,
        number: int,
        seed: int,
        loss_scale: float,
        evaluation_due: bool,
        turns: Sequence[Turn],
        num_micro_batches: int,
        owner: StepOwner,
    ) -> None:
        self.number = number
        """0-based number of this optimizer step."""
        self.evaluation_due = evaluation_due
        """Whether to evaluate after this step; the same on every rank."""
        self.only_evaluation = not turns
        """Whether an earlier start has done this step and only its evaluation is missing. There are
        no micro-batches, and counters of the script have already counted this step."""
        self.outcome: StepOutcome | None = None
        """Set once the parameters have been updated."""
        self.notice: AgreedNotice | None = None
        """The preemption notice that the ranks agreed on in the step's last backward."""
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=owner.ranks.device)
        self.loss_count: SupportsFloat = 0.0
        """Samples that this rank counted; padding is none."""
        self._counted = 0.0
        self._counted_on_device: torch.Tensor | None = None
        """What was counted there, 0-dim float64; the host does not wait for it in a micro-batch."""
        self.metrics: Metrics = {}
        self.seconds = self.evaluation_s = 0.0
        self._seed, self._loss_scale = seed, loss_scale
        self._turns = turns
        self.num_turns = len(turns)
        """Micro-batches of each rank."""
        self._num_micro_batches = num_micro_batches
        self._owner = owner
        self._is_exact = owner.strategy.options.exact
        self._departure: str | None = None
        self._turn = -1
        self._owes_backward = False
        self._is_repeat = False
        self.is_updating = False
        """Whether the parameters are being changed: what is between two updates can be saved."""
        self._total: Callable[[], Carried] | None = None

    def __iter__(self) -> Iterator[Any]:
        """Yield this rank's micro-batches on the device, then update the parameters.

        A step whose evaluation alone is still to be done has none: its update was saved.
        """
        if self.only_evaluation:
            self._seed_streams(AFTER_LAST_MICRO_BATCH)
            return
        if self.outcome is not None or self._turn >= 0:
            raise ConfigError(f"step {self.number} was iterated twice; loop over it once.")
        owner, began = self._owner, time.monotonic()
        watch = owner.strategy.gradient_watch
        if watch is not None:
            watch.withdraw()
        owner.statistics.begin_step(self._num_micro_batches)
        for number, turn in enumerate(self._turns):
            batch, is_own = owner.next_batch()
            self._is_repeat = turn.is_padding or not is_own
            self._turn, self._owes_backward = number, True
            owner.strategy.micro_step(is_last=number == len(self._turns) - 1)
            owner.statistics.begin_micro_batch(turn.micro_batch.index, is_padding=self._is_repeat)
            if owner.trial is not None:
                owner.trial.batch(turn.micro_batch.index, batch, is_padding=self._is_repeat)
            self._seed_streams(turn.micro_batch.index)
            owner.begin_round()
            if watch is not None:
                watch.begin()
            owner.kernels.begin()
            try:
                yield to_device(batch, owner.ranks.device)
            except GeneratorExit:
                owner.kernels.stop()
                done = f"{number + 1} of {len(self._turns)} micro-batches"
                self._departure = owner.left(f"step {self.number} after {done}")
                raise
            self._require_backward()
            if watch is not None:
                watch.require_as_left(self._where(turn.micro_batch.index))
            owner.statistics.end_micro_batch(
                turn.micro_batch.index, self._num_micro_batches, is_padding=self._is_repeat
            )
        self._update()
        for sentence in owner.statistics.end_step(self._num_micro_batches):
            owner.note(sentence)
        owner.strategy.compare_buffers(owner.statistics.apart)
        if watch is not None:
            watch.updated()
        self._seed_streams(AFTER_LAST_MICRO_BATCH)
        self.seconds = time.monotonic() - began

    def _seed_streams(self, part: int) -> None:
        seed_streams(stream_seed(self._seed, self.number, part))

    def backward(self, loss: torch.Tensor, count: torch.Tensor | float) -> None:
        """Accumulate the gradient of a micro-batch. Called on every rank, once a micro-batch.

        Args:
            loss: the SUM of the losses of the samples (or tokens) that count, 0-dim.
            count: their number. The gradient of the step is the sum over all micro-batches and
                ranks, divided by the total count: the exact mean for any sizes.

        Raises:
            ConfigError: a loss that is not one number, or that cannot be trained on; a second call
                for one micro-batch.
        """
        if not self._owes_backward:
            raise ConfigError(
                f"step.backward was called out of turn in step {self.number}: call it exactly once "
                "for each micro-batch, inside `for batch in step`."
            )
        require_number(loss)
        micro_batch = self._turns[self._turn].micro_batch
        where = self._where(micro_batch.index)
        is_first = self.number == 0 and self._turn == 0
        # In the first step the host reads the count and checks the loss.
        is_late = self.number > 0 and isinstance(count, torch.Tensor) and not _is_on_host(count)
        counted = math.nan if is_late else float(count)
        require_gradient(loss, where)
        if self.number == 0 and counted:
            require_finite(loss, micro_batch, where)
        if is_first and counted != 1 and is_mean(loss):
            self._owner.warn(mean_text(counted))
        self._owes_backward = False
        units_left = len(self._turns) - self._turn
        if (notice := self._owner.end_round()) is not None and notice.ends_step(units_left):
            self.notice = notice
            self._owner.kernels.stop()
            self._owner.give_up(self)
        if is_first:
            self._loss_scale = self._owner.first_loss_scale(counted)
        if self._owner.trial is not None and not self._is_repeat:
            self._owner.trial.loss(loss, count)
        if not self._is_repeat:
            self._add(loss.detach(), count if is_late else counted)
        if units_left == 1:
            self._end_counting()
        factor = 0.0 if self._is_repeat else self._loss_scale
        self._add_gradient(loss if factor == 1.0 else loss * factor, where)
        strategy = self._owner.strategy
        if is_first and not strategy.has_seen_loss:
            self._owner.warn(bypass_text(strategy.name))

    def _add_gradient(self, loss: torch.Tensor, where: str) -> None:
        strategy = self._owner.strategy
        watch = strategy.gradient_watch
        if watch is not None:
            watch.require_as_left(where)
        strategy.backward(loss, where=where)
        self._owner.kernels.end(where)
        if watch is not None:
            watch.leave()

    def _where(self, micro_batch: int) -> str:
        return f"step {self.number}, micro-batch {micro_batch}"

    def _add(self, loss: torch.Tensor, counted: torch.Tensor | float) -> None:
        """Add a micro-batch's loss and count; a loss over nothing that is no number is left out."""
        if self._is_exact:
            loss = rounded(loss.double(), LOSS_UNIT)
        if isinstance(counted, torch.Tensor):
            counted = counted.detach().to(self.loss_sum.device, torch.float64).reshape(())
            if self._counted_on_device is None:
                self._counted_on_device = torch.zeros_like(self.loss_sum)
            self._counted_on_device += counted
            counts = counted != 0
            self.loss_sum += torch.where(counts | torch.isfinite(loss), loss, 0.0)
            return
        self._counted += counted
        # Not by multiplication: what is not finite would remain so.
        self.loss_sum += loss if counted else torch.where(torch.isfinite(loss), loss, 0.0)

    def _end_counting(self) -> None:
        """Send what this rank counted, or ask its device for it. Called before the last backward.

        Under way during that: the total is needed only for the update.
        """
        self.loss_count = self._counted
        if self._counted_on_device is None:
            self._total = self._owner.carry(self._counted)
        else:
            self.loss_count = LateNumber(self._counted_on_device + self._counted)

    def evaluate(
        self,
        dataset: MapDataset | None = None,
        measure: Measure | None = None,
        *,
        name: str = "val",
        collate: Collate | None = None,
        **unknown: Any,
    ) -> Metrics:
        """Measure the model on `dataset`, each sample exactly once. Called on every rank.

        Args:
            dataset: a map-style data set. None: `run.prepare(validate=...)`.
            measure: (model, batch) -> {metric: value}. A value is a tensor with one number per
                sample, a pair (numerator, denominator), or the result of a function of
                `strategies.metrics`. None: `run.prepare(measure=...)`.
            name: prefix of the metrics: "val" gives "val/loss".
            collate: function from a list of samples to a batch. None: `evaluation_collate` or
                `collate` of `run.prepare`.
            unknown: refused; names that other libraries use are answered with ours.

        Returns:
            The exact metrics over all samples, the same on every rank.

        Raises:
            ConfigError: it cannot be measured.
        """
        refuse_unknown(unknown, known=("name", "collate"), where="step.evaluate")
        if self._departure is not None:
            raise ConfigError(self._departure)
        if self.outcome is None:
            raise ConfigError(f"evaluate after all micro-batches of step {self.number}.")
        recipe, began = self._owner.recipe, time.monotonic()
        dataset = required(recipe.validate if dataset is None else dataset, "validate")
        measure = required(recipe.measure if measure is None else measure, "measure")
        self.metrics.update(self._owner.evaluate(self, dataset, measure, name, collate))
        self.evaluation_s += time.monotonic() - began
        return self.metrics

    @property
    def is_under_way(self) -> bool:
        """Whether a micro-batch was given out, and the parameters are still to be updated."""
        return self._turn >= 0 and self.outcome is None

    @property
    def place(self) -> tuple[str | int | bool, ...]:
        """How far it is: ranks at the same place have exchanged the same so far."""
        if self.outcome is not None:
            return ("evaluation", self.number)
        return ("step", self.number, self._turn, self._owes_backward, self._total is not None)

    def require_complete(self) -> None:
        """Refuse a loop that left the step early.

        Raises:
            ConfigError: it did; the other ranks would wait for this one for ever.
        """
        if self._departure is not None:
            raise ConfigError(self._departure)
        if self.outcome is None:
            raise ConfigError(
                f"the training loop left step {self.number} after {self._turn + 1} of "
                f"{len(self._turns)} micro-batches. Loop over the whole step; "
                "to end the run, call job.stop()."
            )

    def _require_backward(self) -> None:
        if self._owes_backward:
            raise ConfigError(
                f"step.backward was not called for micro-batch {self._turn} of step {self.number}. "
                "Call it for every micro-batch, with count=0 and loss.sum() * 0 if none counts."
            )

    def _update(self) -> None:
        if self._total is None:
            # The last backward is launched, and the device is past what it was asked for.
            self._total = self._owner.carry(float(self.loss_count))
        carried = self._total()
        self.notice = carried.notice
        if carried.notice.lacks_data:
            self._owner.give_up(self)
        if not carried.total >= 0:
            raise ConfigError(
                f"step {self.number} counted {carried.total:g} samples over all ranks; "
                "pass step.backward the number of samples (or tokens) in the sum."
            )
        self._owner.before_update()
        self._seed_streams(UPDATE)  # the last micro-batch was another one on each rank
        strategy = self._owner.strategy
        self.is_updating = True
        count = carried.total * self._loss_scale
        self.outcome = strategy.step(count) if carried.total else strategy.skip()
        self.is_updating = False
        self._owner.note_trained()


def _is_on_host(count: torch.Tensor) -> bool:
    return count.is_cpu
