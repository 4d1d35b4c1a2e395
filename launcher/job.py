"""The training loop's engine: steps, boundaries, checkpoints, endings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from checkpointing import JSON, CheckpointStore, SaveFailedError
from strategies import (
    BatchPlan,
    Boundary,
    ConfigError,
    Decision,
    EarlyStopping,
    Ending,
    LossScale,
    MapDataset,
    Report,
    RunningStatistics,
    StrategyError,
    current_hyperparameters,
    decide,
    merge,
    put_in_force,
    strategy_class,
    training_batches,
)

from .evaluation import Measure, evaluate
from .exit_codes import CONTINUE
from .export import export_model
from .keeper import Keeper
from .progress_log import ProgressLog
from .recipe import Recipe
from .run_state import RunState, evaluation_of, identity, plan_changes
from .save_pace import SavePace, failures_of, time_between_failures_s
from .step import Step

if TYPE_CHECKING:
    from .run import Run

MAX_SKIPPED_IN_A_ROW = 25
"""More than fp16's loss scale needs to come down from its start; beyond, nothing is learned."""


class Preempted(SystemExit):
    """Saved, and to be continued by the same command: leaves with exit code 75."""

    def __init__(self) -> None:
        super().__init__(CONTINUE)


class Job:
    """A prepared training run. Iterate over it for its steps; it ends by itself."""

    def __init__(self, run: Run, recipe: Recipe) -> None:
        """Build the strategy and go on from the newest checkpoint. Called on every rank."""
        self.recipe = recipe
        self.run = run
        self.plan = BatchPlan(
            num_samples=len(recipe.train),
            global_batch=recipe.global_batch,
            micro_batch=recipe.micro_batch,
            epochs=recipe.epochs,
            seed=run.seed,
        )
        self._evaluate_every, save_every = recipe.intervals(self.plan.steps_per_epoch)
        running_s, num_failures = failures_of(run.folder.events())
        self._pace = SavePace(
            save_every,
            run.clock,
            between_failures_s=time_between_failures_s(running_s, num_failures),
        )
        self._strategy = strategy_class(run.strategy)(recipe.blueprint(run))
        self._statistics = RunningStatistics(self._strategy.module, run.ranks)
        self._requested = current_hyperparameters(self._strategy.param_groups)
        self._base_rates = [float(group["lr"]) for group in self._strategy.param_groups]
        self._boundary = Boundary(run.ranks, self._digest())
        self._keeper = Keeper(
            run,
            self._strategy,
            retention=recipe.retention(self.plan.steps_per_epoch),
            requested=self._requested,
            objects=recipe.objects,
        )
        self._state = RunState(scale=LossScale.for_precision(run.precision))
        self._asked_to_stop: str | None = None
        self._log = ProgressLog(run, every=recipe.log_every, total_steps=self.plan.total_steps)
        self._resume()

    @property
    def step(self) -> int:
        """Optimizer steps completed."""
        return self._state.step

    @property
    def model(self) -> Any:
        """What the loop calls; wrapped or sharded by the strategy."""
        return self._strategy.module

    @property
    def epoch(self) -> int:
        """0-based epoch of the next step."""
        return self.plan.epoch_of(self.step)

    def __iter__(self) -> Iterator[Step]:
        """Yield one `Step` after the other until the run is done, stopped or asked to leave.

        Raises:
            Preempted: after a save, when any rank was asked to leave; it ends the process with 75.
        """
        decision = decide(self._state.progress(self.plan), None)
        if decision.ending is not None:
            self._log.already_over(decision)
            return
        batches = training_batches(
            self.recipe.train,
            self.plan,
            first_step=self.step,
            rank=self.run.ranks.rank,
            world_size=self.run.ranks.world_size,
            workers=self.recipe.workers,
        )
        self.model.train()
        try:
            while True:
                step = self._new_step(batches)
                yield step
                step.require_complete()
                decision = self._finish(step)
                if decision.ending is not None:
                    break
        finally:
            self._keeper.close()
        self._log.ended(decision, self.step)
        if decision.ending is Ending.PREEMPTED:
            raise Preempted

    def stop(self, reason: str) -> None:
        """Ask for the run to end at the next boundary; one rank is enough."""
        self._asked_to_stop = reason

    def export(self, which: str = "best") -> None:
        """Write the model as one plain safetensors file. Called on every rank.

        Args:
            which: "best" (by early stopping; the last where there is no such rule) or "last".
        """
        store, step = self._weights(which)
        export_model(self.run.folder, store, step, self.run.communicator)
        self.run.say(f"exported the {which} model (step {step}) to {self.run.folder.export_path}")

    def test(
        self, dataset: MapDataset, measure: Measure, *, which: str = "best", name: str = "test"
    ) -> dict[str, float]:
        """Measure the best (or last) weights on a data set. Called on every rank.

        The model holds those weights afterwards.
        """
        self._keeper.restore_weights(*self._weights(which))
        found = self._evaluate(dataset, measure, name)
        self._log.measured(found)
        return found

    def _new_step(self, batches: Iterator[Any]) -> Step:
        factor = self.recipe.schedule(self.step, self.plan.total_steps)
        for group, base in zip(self._strategy.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor
        done = self.step + 1
        return Step(
            number=self.step,
            seed=self.run.seed,
            loss_scale=self._state.scale.scale,
            evaluation_due=self._evaluate_every.is_due(done) or done == self.plan.total_steps,
            strategy=self._strategy,
            ranks=self.run.ranks,
            statistics=self._statistics,
            num_micro_batches=len(self.plan.micro_batches(self.step)),
            turns=self.plan.turns(self.step, self.run.ranks.rank, self.run.ranks.world_size),
            batches=batches,
            evaluate=self._evaluate,
        )

    def _finish(self, step: Step) -> Decision:
        """Close a step at its boundary; return what was decided."""
        assert step.outcome is not None
        self._advance(applied=step.outcome.applied)
        if step.evaluation_due and self.recipe.stop is not None:
            self._judge(step, self.recipe.stop)
        # What the ranks said at the former boundary; what they say now is read at the next.
        agreed = self._boundary.receive()
        self._boundary.send(self._report(step))
        self.run.heartbeat.beat(self.step)
        self._log.step(self.step, self.plan, step, self._rate(), agreed)
        save_due = self._pace.is_due_after(self.step)
        progress = self._state.progress(
            self.plan,
            save_due=save_due,
            saving_step=self._keeper.saving_step,
            world_size=self.run.ranks.world_size,
        )
        decision = decide(progress, agreed)
        if decision.ending is Ending.STOPPED:
            decision = replace(decision, reason=self._reason_of_script())
            self._state = replace(self._state, stopped_because=decision.reason)
        if decision.save or decision.conclude:
            self._boundary.drain()
        if decision.conclude:
            self._conclude_save()
        if decision.save:
            self._save(decision)
        if decision.ending is not None:
            self._log.flush(self._boundary.receive())
        return decision

    def _reason_of_script(self) -> str:
        """Return what the ranks that called `stop` said. Called on every rank."""
        given = self.run.communicator.all_gather(self._asked_to_stop)
        reasons = dict.fromkeys(str(reason) for reason in given if reason is not None)
        return f"the script asked: {'; '.join(reasons)}"

    def _advance(self, *, applied: bool) -> None:
        """Count the step.

        Raises:
            StrategyError: too many steps in a row could not be applied.
        """
        skipped = 0 if applied else self._state.skipped_in_a_row + 1
        self._state = replace(
            self._state,
            step=self.step + 1,
            scale=self._state.scale.after(finite=applied),
            skipped_in_a_row=skipped,
        )
        if skipped >= MAX_SKIPPED_IN_A_ROW:
            raise StrategyError(
                f"the gradients were not finite in {skipped} steps in a row, the last one step "
                f"{self.step - 1}. Lower the learning rate, clip with max_grad_norm, or look at "
                "the data; the newest checkpoint is from before."
            )

    def _report(self, step: Step) -> Report:
        assert step.outcome is not None
        return Report(
            step=self.step,
            preempt=self.run.preemption.requested,
            stop=self._asked_to_stop is not None,
            save=self.run.ranks.is_coordinator and self._pace.is_due_now(),
            skipped=not step.outcome.applied,
            settled=self._keeper.is_settled(),
            loss_sum=float(step.loss_sum),
            loss_count=step.loss_count,
        )

    def _judge(self, step: Step, rule: EarlyStopping) -> None:
        if rule.monitor not in step.metrics:
            raise ConfigError(
                f'EarlyStopping monitors "{rule.monitor}", and the evaluation after step '
                f"{self.step} measured {sorted(step.metrics) or 'nothing'}. Call step.evaluate "
                "whenever step.evaluation_due is true, or monitor one of these."
            )
        before = self._state.stopper
        value = step.metrics[rule.monitor]
        stopper, is_best = rule.update(before, value, step=self.step)
        evaluation = evaluation_of(rule, value, self.step)
        self._state = replace(self._state, stopper=stopper, evaluation=evaluation)
        if not is_best:
            return
        try:
            self._keeper.save_best(self.step, self._state.to_json(self.plan, None))
        except SaveFailedError as error:
            # The best is what can be exported: the former one stays the best.
            kept = replace(stopper, best=before.best, best_step=before.best_step)
            self._state = replace(self._state, stopper=kept)
            self._log.save_failed(self.step, error)

    def _evaluate(self, dataset: MapDataset, measure: Measure, name: str) -> dict[str, float]:
        return evaluate(
            self._strategy,
            self.run.ranks,
            self._boundary,
            dataset,
            measure,
            micro_batch=self.plan.micro_batch,
            workers=self.recipe.workers,
            name=name,
            beat=self.run.heartbeat.beat,
        )

    def _rate(self) -> float:
        return float(self._strategy.param_groups[0]["lr"])

    def _save(self, decision: Decision) -> None:
        """Save now where the run ends; else begin a save that is concluded at a later boundary."""
        self._pace.begin()
        state = self._state.to_json(self.plan, decision.ending)
        try:
            if decision.ending is None:
                self._keeper.start_saving(self.step, state)
            else:
                self._log.saved(self._keeper.save(self.step, state), self._pace.seconds)
        except SaveFailedError as error:
            # The run is worth more than one checkpoint; a final state that is lost is a failure.
            if decision.ending is not None and decision.ending.is_final:
                raise
            self._log.save_failed(self.step, error)
        self._pace.go_on()
        self.run.heartbeat.beat()

    def _conclude_save(self) -> None:
        """Commit the save in flight. Called on every rank."""
        step = self._keeper.saving_step
        assert step is not None
        since_s = self._pace.now()
        try:
            saved = self._keeper.conclude(self._state.stopper.best_step)
        except SaveFailedError as error:
            self._log.save_failed(step, error)
        else:
            stall_s = self._pace.concluded(since_s)
            self._log.saved(saved, self._pace.seconds, stall_s, self._pace.interval_s)
        self.run.heartbeat.beat()

    def _digest(self) -> JSON:
        return {
            **identity(self.plan),
            "micro_batch": self.plan.micro_batch,
            "epochs": self.plan.epochs,
            "strategy": self.run.strategy,
            "precision": self.run.precision.name,
        }

    def _resume(self) -> None:
        restored = self._keeper.restore()
        if restored is not None:
            self._state = self._state.restored(
                restored.state, self.plan, where=self.run.folder.path
            )
            values, changes = merge(
                self._strategy.group_names, self._requested, restored.state["optimizer"]["groups"]
            )
            put_in_force(self._strategy.param_groups, values)
            changes += plan_changes(restored.state, self.plan)
            self._log.restored(restored, changes, self.recipe.objects)
        self._log.started(self.step, restored)

    def _weights(self, which: str) -> tuple[CheckpointStore, int]:
        """Return where the best or the last weights are."""
        if which not in ("best", "last"):
            raise ConfigError(f'unknown weights "{which}"; choose from best, last.')
        best_step = self._state.stopper.best_step
        if which == "best" and best_step is not None:
            return self.run.folder.best, best_step
        return self.run.folder.checkpoints, self.step
