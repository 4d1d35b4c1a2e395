"""What the steps of a run need: their data, the other ranks' notices, and a way to leave."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from strategies import (
    AgreedNotice,
    BatchPlan,
    DataNotReady,
    Look,
    MapDataset,
    Metrics,
    NoticeRounds,
    OwnCollectives,
    Ranks,
    is_stream,
    training_batches,
)
from strategies.boundary.boundary import Carried
from strategies.data.reading.loading import EvaluationLoaders
from strategies.data.reading.read_ahead import ReadAhead
from strategies.data.reading.reading import Batches
from strategies.data.reading.samples import Collate
from strategies.data.streams.own_batches import OwnBatches
from strategies.data.streams.own_position import OwnPosition, require_parts

from ...context import RunContext
from ...ending.notices import DataPatience
from ...recipe.measure import Measure
from ...recipe.recipe import Recipe
from ..evaluation import Evaluation, evaluate
from ..job_parts import JobParts
from ..trial import Trial
from .kernel_check import KernelCheck
from .step import Step

Evaluate = Callable[[Step, MapDataset, Measure, str, Collate | None], Metrics]


class StepSupport:
    """Serves one step after the other; see `StepOwner`."""

    def __init__(
        self,
        run: RunContext,
        recipe: Recipe,
        parts: JobParts,
        *,
        evaluate: Evaluate,
        give_up: Callable[[Step], NoReturn],
        first_loss_scale: Callable[[float], float],
    ) -> None:
        self.strategy = parts.strategy
        self.ranks: Ranks = run.ranks
        self.statistics = parts.statistics
        self.kernels = KernelCheck(parts.strategy)
        self.is_leaving = False
        """The ranks have agreed to leave: a loop that is closed now was not left by the script."""
        self._run = run
        self.recipe = recipe
        self.trial = _trial_of(run, recipe, parts)
        self._train = parts.train
        self._boundary = parts.boundary
        self._saver = parts.saver
        # What others do for a step; see StepOwner.
        self.evaluate, self.first_loss_scale = evaluate, first_loss_scale
        self.before_update = parts.saver.release_tensors
        self.warn, self.note = run.warn, parts.log.noted
        self._give_up = give_up
        self._rounds = NoticeRounds(run.ranks, self.look)
        # SyncBatchNorm has some in the forward, and a warning of its own.
        has_some = parts.strategy.forward_communicates or bool(parts.statistics.notes)
        self._own_collectives = OwnCollectives(run.ranks, forward_has_some=has_some)
        self._own_position = parts.own_position
        self._batches: Batches | OwnBatches | None = None
        self._next: Iterator[Any] = iter(())
        self._former: Any = None
        self._lacks_data = False
        clock = parts.saver.clock
        self._patience = DataPatience(run.preemption, save_s=lambda: clock.save_s or 0.0)
        self._while_reading: dict[str, Any] = {
            "while_waiting": self._patience.is_over,
            "has_notice": lambda: run.preemption.requested,
            "warn": run.warn_of_rank,
        }
        self._loading = recipe.loading()
        self._evaluations = EvaluationLoaders(run.seed, self._while_reading)
        self._has_told_of_collate: set[str] = set()

    def read_from(self, step: int, plan: BatchPlan) -> None:
        """Open the training data at a step."""
        self._close_training_data()
        self.strategy.meanwhile = None
        if self._own_position is not None:
            self._next = self._batches = self._read_own(self._own_position, step, plan)
            return
        self._next = self._batches = training_batches(
            self._train,
            plan,
            first_step=step,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            loading=self._loading,
            **self._while_reading,
        )
        if self.trial is None and reads_ahead(self.ranks.device.type):
            self._next = ahead = ReadAhead(self._batches)
            self.strategy.meanwhile = partial(self._read_ahead, ahead)

    def _read_ahead(self, ahead: ReadAhead) -> None:
        """Read for the next step while the device computes this one."""
        self._patience.begin()
        ahead.read()

    def _read_own(self, position: OwnPosition, step: int, plan: BatchPlan) -> OwnBatches:
        """Read on a stream that keeps its position. Called on every rank."""
        position.open(step, len(plan.turns(step, self.ranks.rank, self.ranks.world_size)))
        if self.ranks.world_size > 1 and position.is_fresh:
            digest = position.digest(plan.micro_batch)
            require_parts(position, self._run.communicator.all_gather(digest))
        return OwnBatches(
            position,
            micro_batch=plan.micro_batch,
            collate=self._loading.collate,
            stops=self._patience.is_over,
            has_notice=lambda: self._run.preemption.requested,
        )

    def close(self) -> None:
        """End the processes that read data."""
        self._close_training_data()
        if self._own_position is not None:
            self._own_position.close()
        self._evaluations.close()

    def _close_training_data(self) -> None:
        if self._batches is not None:
            self._batches.close()

    def measure(
        self, dataset: MapDataset, measure: Measure, name: str, collate: Collate | None
    ) -> Evaluation:
        """Evaluate on a data set, unless the ranks are to leave. Called on every rank."""
        clock, began_s = self._saver.clock, time.monotonic()
        collate = collate or self.recipe.evaluation_collate
        if collate is None and self._loading.collate is not None:
            self._tell_of_collate(name)
        loading = replace(self._loading, collate=collate or self._loading.collate)
        self._patience.begin()
        found = evaluate(
            self.strategy,
            self.ranks,
            self._boundary,
            dataset,
            measure,
            micro_batch=self.recipe.micro_batch,
            name=name,
            seed=self._run.seed,
            open_batches=partial(self._evaluations.open, loading=loading),
            beat=self._run.heartbeat.beat,
            look=self.look,
            needed_s=clock.evaluation_s(name),
        )
        if found.metrics is not None:
            clock.evaluated(name, time.monotonic() - began_s)
        return found

    def _tell_of_collate(self, name: str) -> None:
        if name not in self._has_told_of_collate:
            self._has_told_of_collate.add(name)
            self._run.say(
                f"the evaluation {name} uses collate= of run.prepare, as the training does; pass "
                "collate= to step.evaluate or job.test for another one"
            )

    def look(self) -> Look:
        """Return what this rank knows of a notice; the coordinator also of the time."""
        if self.ranks.is_coordinator:
            return replace(self._saver.clock.look(), lacks_data=self._lacks_data)
        return Look(asked=self._run.preemption.requested, lacks_data=self._lacks_data)

    def next_batch(self) -> tuple[Any, bool]:
        """See StepOwner."""
        self._patience.begin()
        while True:
            try:
                self._former = next(self._next)
            except DataNotReady:
                if self._former is None:
                    # No step was finished, so this rank leaves here, if it has not done so yet.
                    self._run.before_first_step.leave_if_asked()
                    continue
                self._lacks_data = True
                return self._former, False
            return self._former, True

    def begin_round(self) -> None:
        """See StepOwner."""
        self._rounds.begin()
        self._own_collectives.begin()

    def end_round(self) -> AgreedNotice | None:
        """See StepOwner."""
        if (note := self._own_collectives.note()) is not None:
            self.warn(f"{note}.")
        return self._rounds.end()

    def carry(self, count: float) -> Callable[[], Carried]:
        """See StepOwner."""
        # With this rank's count the others finish the step, so this rank must finish it too.
        self._run.before_first_step.end()
        return self._boundary.carry(count, self.look())

    def give_up(self, step: Step) -> NoReturn:
        """See StepOwner."""
        self.statistics.give_up()
        self._give_up(step)

    def note_trained(self) -> None:
        """See StepOwner."""
        self._run.lockstep.has_trained = True

    def left(self, what: str) -> str | None:
        """See StepOwner."""
        return None if self.is_leaving else self._run.lockstep.leave(what)


def reads_ahead(device_type: str) -> bool:
    """Return whether a batch is read while the device computes: on a CPU both take its cores."""
    return device_type != "cpu"


def _trial_of(run: RunContext, recipe: Recipe, parts: JobParts) -> Trial | None:
    """Return what observes this rank's steps from now on; None in an ordinary run."""
    settings = run.environment.trial
    if settings is None:
        return None
    trial = Trial(settings, run.ranks.rank)
    trial.watch_files()
    trial.model(parts.strategy.module)
    if not is_stream(recipe.train):
        trial.data(parts.train, run.seed)
    return trial
