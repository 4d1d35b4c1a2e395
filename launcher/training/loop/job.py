"""`Job`: a prepared training run, as its script holds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import torch

from checkpointing import CheckpointStore
from strategies import BatchPlan, ConfigError, MapDataset, Metrics
from strategies.data.reading.samples import Collate

from ..context import RunContext
from ..ending.mistakes import WAIT_S, agree_to_save, save_before_leaving
from ..lockstep import common_store
from ..recipe.arguments import refuse_unknown
from ..recipe.measure import Measure
from ..recipe.recipe import Recipe
from ..run_state import Preempted
from ..saving.export import export_model
from ..saving.save_deadline import fits_export
from .evaluation import FirstSamples, require_samples, required
from .job_parts import build_parts
from .steps.step import Step
from .training_loop import TrainingLoop
from .trial import for_trial


class Job:
    """A prepared training run. Iterating over it yields one `Step` per optimizer step."""

    def __init__(self, run: RunContext, recipe: Recipe) -> None:
        """Build the strategy and restore the newest checkpoint. Called on every rank."""
        self.recipe = recipe = for_trial(recipe, run.environment.trial)
        self.run = run
        parts = build_parts(run, recipe)
        self._strategy = parts.strategy
        self._checkpointer = parts.checkpointer
        self._log = parts.log
        self._rules = parts.rules
        self._exported = parts.exported
        self._clock = parts.saver.clock
        self._loop = TrainingLoop(run, recipe, parts)
        self._is_over = self._loop.ending() is not None
        """The training has ended, at an earlier start or at this one."""
        if recipe.validate is not None and recipe.measure is not None:
            self.try_measure(recipe.validate, recipe.measure, name="val")

    @property
    def step(self) -> int:
        """Optimizer steps completed."""
        return self._loop.step

    @property
    def plan(self) -> BatchPlan:
        """Which data each step has, without the data that the run has skipped."""
        return self._loop.plan

    @property
    def model(self) -> Any:
        """The model under the strategy; it behaves as the user's model."""
        return self._strategy.module

    @property
    def strategy(self) -> str:
        """The strategy's name."""
        return self._strategy.name

    @property
    def device(self) -> torch.device:
        """This rank's device, where batches and model are."""
        return self.run.device

    @property
    def epoch(self) -> int:
        """0-based epoch of the next step."""
        return self.plan.epoch_of(self.step)

    def __iter__(self) -> Iterator[Step]:
        """Yield one `Step` after the other until the run is done, stopped or preempted.

        Raises:
            Preempted: after a save, if any rank got a preemption notice; the process ends with 75.
        """
        self.run.lockstep.enter("the training loop")
        if (decision := self._loop.ending()) is None:
            try:
                yield from self._loop.iterate()
            finally:
                self._is_over = True  # also where it is left, for what a script does then
        else:
            self._log.already_over(decision)
        self._hold_what_was_asked_for()

    def try_measure(
        self,
        dataset: MapDataset,
        measure: Measure,
        *,
        name: str = "val",
        collate: Collate | None = None,
    ) -> None:
        """Measure a few samples, so that a mistake shows now. Called on every rank.

        `run.prepare(validate=, measure=)` and `run.fit` do this automatically. Nothing is recorded,
        and the state of the run does not change.

        Args:
            dataset: the data set that will be evaluated.
            measure: as for `step.evaluate`.
            name: the name of that evaluation.
            collate: as for `step.evaluate`.

        Raises:
            ConfigError: it cannot be measured, or early stopping monitors a metric that is not
                measured.
        """
        require_samples(dataset, name)
        if self._loop.ending() is not None:
            return
        few = FirstSamples(dataset, self.recipe.micro_batch)
        found = self._loop.measure(few, measure, name, collate)
        if found.metrics is not None:
            self._rules.require_measured_as(name, found.metrics)

    def save_after_mistake(self) -> str:
        """Save the finished steps if all ranks have met a mistake; return what came of it.

        Called on every rank that has met one; the process is to end then.
        """
        loop, ranks = self._loop, self.run.ranks
        standing = loop.standing()
        wait_s = WAIT_S + loop.longest_wait_s

        def save() -> int | None:
            loop.save_finished()
            return loop.standing().newest_step

        try:
            return save_before_leaving(
                standing,
                save,
                lambda: agree_to_save(
                    ranks,
                    common_store(),
                    standing,
                    wait_s=wait_s,
                    asked=lambda: self.run.preemption.requested,
                ),
            )
        finally:
            loop.close()

    def stop(self, reason: str) -> None:
        """Ask for the run to end at the next boundary. One rank is enough."""
        self._loop.asked_to_stop = reason

    def export(self, which: str | None = None, *, merged: bool = False) -> None:
        """Write the model as one safetensors file. Called on every rank.

        For a model with a `config`, as in transformers, config.json is written beside it. Of a PEFT
        model the adapter is written, as `PeftModel.from_pretrained` reads it.

        Args:
            which: "best" (by early stopping; the last weights without it), "last", or "ema", the
                moving average at the last step. None: the choice of `EarlyStopping(restore=...)`.
            merged: write a PEFT model whole, its adapter merged into the base, which rank 0 builds
                in its memory.
        """
        self.run.lockstep.enter("job.export")
        store, step = self._weights(which)
        self._require_over(f"job.export({'' if which is None else repr(which)})")
        path = export_model(
            self.run.folder,
            store,
            step,
            self.run.communicator,
            which=which,
            asked=lambda: self.run.preemption.requested,
            fits=lambda: fits_export(self._clock.look()),
            model=self._exported,
            merged=merged,
        )
        if path is None:
            self._leave_after_loop("job.export", asked=self.run.preemption.requested)
        if isinstance(self._exported.adapter, str):
            self.run.warn(f"the PEFT model was exported whole: {self._exported.adapter}.")
        name = which or self._restore
        self.run.say(f"exported the {name} model (step {step}) to {path}")

    def test(
        self,
        dataset: MapDataset,
        measure: Measure | None = None,
        *,
        which: str | None = None,
        name: str = "test",
        collate: Collate | None = None,
        **unknown: Any,
    ) -> Metrics:
        """Measure the best, last or averaged weights on a data set. Called on every rank.

        After the training loop; the model holds those weights afterwards.

        Args:
            dataset: a map-style data set.
            measure: as for `step.evaluate`. None: the `measure` of `run.prepare`.
            which: as for `export`.
            name: prefix of the metrics.
            collate: as for `step.evaluate`.
            unknown: refused; names that other libraries use are answered with ours.

        Returns:
            The exact metrics over all samples, the same on every rank.

        Raises:
            ConfigError: it cannot be measured, or the training has not ended.
        """
        refuse_unknown(unknown, known=("which", "name", "collate"), where="job.test")
        measure = required(measure or self.recipe.measure, "measure", "job.test")
        self.run.lockstep.enter("job.test")
        self._require_over("job.test")
        self._checkpointer.restore_weights(*self._weights(which), averaged=which == "ema")
        found = self._loop.measure(dataset, measure, name, collate)
        if found.metrics is None:
            self._leave_after_loop("job.test", asked=found.notice.asked > 0)
        self._log.measured(self.step, which or self._restore, found.metrics)
        return found.metrics

    def _leave_after_loop(self, where: str, *, asked: bool) -> NoReturn:
        """Leave after the training, whose end is saved. Called on every rank.

        Raises:
            Preempted: always.
        """
        self._log.left_after_loop(where, self.step, asked=asked)
        raise Preempted

    def _require_over(self, what: str) -> None:
        """Refuse what takes saved weights, or puts them into the model, while it is trained.

        Raises:
            ConfigError: the training has not begun or not ended.
        """
        if not self._is_over:
            raise ConfigError(
                f"{what} takes the saved weights of the end of the training, which is at step "
                f"{self.step} of {self.plan.total_steps}. Call it after the training loop; in the "
                "loop, measure by step.evaluate(data, measure, name=...)."
            )

    @property
    def _restore(self) -> str:
        return "best" if self.recipe.stop is None else self.recipe.stop.restore

    def _hold_what_was_asked_for(self) -> None:
        """Put the weights into the model that a finished run is to leave. Called on every rank."""
        store, step = self._weights(None)
        if step != self.step:
            self._checkpointer.restore_weights(store, step)
            self.run.say(f"the model holds its best weights, of step {step}")

    def _weights(self, which: str | None) -> tuple[CheckpointStore, int]:
        """Return where the best, the last or the averaged weights are."""
        which = which or self._restore
        if which not in ("best", "last", "ema"):
            raise ConfigError(f'unknown weights "{which}"; choose from best, ema, last.')
        if which == "ema" and self.recipe.ema is None:
            raise ConfigError('"ema" needs an average: pass run.prepare(ema=EMA()).')
        best_step = self._loop.state.stopper.best_step
        if which == "best" and best_step is not None:
            return self.run.folder.best, best_step
        return self.run.folder.checkpoints, self.step
